"""warm: which bodies are pulled, and what becomes of failures."""

import asyncio
import json
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from registry_proxy.cli import main, warm
from registry_proxy.cli.http import Instance, InstanceRefused, InstanceUnreachable, Stopped
from registry_proxy.cli.platforms import Wanted, choose
from registry_proxy.config import load
from registry_proxy.errors import ConfigInvalid, StoreUnusable
from registry_proxy.oci.content import OCI_INDEX, Descriptor, Platform
from registry_proxy.oci.digest import Digest
from tests.cli.conftest import Canned, FakeInstance

REPOSITORY = "library/alpine"


@pytest.fixture
def alpine(fake: FakeInstance) -> FakeInstance:
    """An index of two platforms, each of one layer of its own and one that they share."""
    shared = b"shared" * 1000
    fake.index(
        REPOSITORY,
        "docker.io",
        {
            "linux/amd64": fake.image(REPOSITORY, "docker.io", [shared, b"amd64" * 9]),
            "linux/arm64/v8": fake.image(REPOSITORY, "docker.io", [shared, b"arm64" * 9]),
        },
        "latest",
    )
    return fake


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    [image] = json.loads(capsys.readouterr().out)["images"]
    return image


def test_the_wanted_platform_is_pulled_and_no_other(
    alpine: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The index, one manifest, its config and layers: each once, with the source host named."""
    assert main.run(["warm", "alpine", "--server", server, "--platform", "linux/amd64", "--json"]) == 0
    image = result(capsys)
    assert (image["image"], image["manifests"], image["blobs"], image["error"]) == (
        "docker.io/library/alpine:latest",
        2,
        3,
        None,
    )
    pulled = alpine.paths("blobs")
    assert sorted(pulled) == sorted(set(pulled))
    assert str(Digest.of(b"amd64" * 9)) in pulled
    assert str(Digest.of(b"arm64" * 9)) not in pulled


def test_all_platforms_share_what_they_share(
    alpine: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """--platform all pulls every image of the index, and what they have in common once."""
    assert main.run(["warm", "alpine", "--server", server, "--platform", "all", "--json"]) == 0
    image = result(capsys)
    assert (image["manifests"], image["blobs"]) == (3, 4)
    assert image["bytes"] == 6000 + 45 * 2 + len(b"{}" + REPOSITORY.encode()) + sum(
        len(answers[0].body) for path, answers in alpine.answers.items() if "manifests/sha256" in path
    )


def test_an_image_by_digest(fake: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A single manifest is pulled whatever platform it is for, and summed up in a line."""
    descriptor = fake.image("a/b", "own.example:5001", [b"layer"])
    fake.answers = {
        path.replace("own.example:5001", "own.example%3A5001"): found for path, found in fake.answers.items()
    }
    name = f"own.example:5001/a/b@{descriptor['digest']}"
    assert main.run(["warm", name, "--server", server]) == 0
    assert capsys.readouterr().out.startswith(f"{name}: 1 manifest, 2 blobs, ")


@pytest.mark.usefixtures("alpine")
def test_a_missing_platform_is_told(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An index that has nothing for the platform fails that image."""
    assert main.run(["warm", "alpine", "--server", server, "--platform", "linux/s390x", "--json"]) == 1
    assert "nothing for the platform" in str(result(capsys)["error"])


def test_an_oci_error_is_shown_as_it_came(fake: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What the instance says about an unknown image reaches the person; other images are still pulled."""
    body = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no such tag"}]}).encode()
    fake.put("/v2/library/gone/manifests/latest?ns=docker.io", Canned(body, 404))
    fake.image("library/here", "docker.io", [b"x"], "latest")
    assert main.run(["warm", "gone", "here", "--server", server]) == 1
    out, err = capsys.readouterr()
    assert re.fullmatch(
        r"docker.io/library/gone:latest: failed after 0\.\d s: 404 MANIFEST_UNKNOWN: no such tag\n", err
    )
    assert re.fullmatch(r"docker.io/library/here:latest: 1 manifest, 2 blobs, \d+ B in 0\.\d s\n", out)


def test_a_body_that_breaks_off_is_a_failure(
    fake: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fewer bytes than promised, or than the manifest says, never count as pulled."""
    fake.image("library/short", "docker.io", [b"0123456789"], "latest")
    path = f"/v2/library/short/blobs/{Digest.of(b'0123456789')}?ns=docker.io"
    for answer in (Canned(b"01234", promise=10), Canned(b"01234")):
        fake.put(path, answer)
        assert main.run(["warm", "short", "--server", server, "--json"]) == 1
        assert "5" in str(result(capsys)["error"])


def test_a_busy_instance_is_asked_again(fake: FakeInstance, server: str) -> None:
    """503 and 429 are waited out as long as they say."""
    fake.put(
        "/x",
        Canned(status=503, headers={"Retry-After": "0"}),
        Canned(status=429, headers={"Retry-After": "0"}),
        Canned(b"yes"),
    )
    assert Instance(server).get("/x", {}, 10) == b"yes"
    fake.put("/x", Canned(status=503, headers={"Retry-After": "0"}))
    with pytest.raises(InstanceRefused, match="503"):
        Instance(server).get("/x", {}, 10)


def test_a_body_beyond_the_limit_is_refused(fake: FakeInstance, server: str) -> None:
    """An endless manifest is not taken into memory."""
    fake.put("/x", Canned(b"0123456789"))
    with pytest.raises(InstanceRefused, match="more than 9 bytes"):
        Instance(server).get("/x", {}, 9)


def test_indexes_that_name_each_other_end(fake: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An index nested without end is refused instead of followed."""
    digest = str(Digest.of(b"loop"))
    loop = {"mediaType": OCI_INDEX, "manifests": [{"digest": digest, "size": 1}]}
    body = json.dumps(loop).encode()
    for reference in ("latest", digest):
        fake.put(f"/v2/library/loop/manifests/{reference}?ns=docker.io", Canned(body))
    assert main.run(["warm", "loop", "--server", server, "--json"]) == 1
    assert "nested too deeply" in str(result(capsys)["error"])


def test_stopping_ends_an_exchange_under_way(fake: FakeInstance, server: str) -> None:
    """stop() wakes a thread that waits for bytes; a stopped instance asks for nothing more."""
    fake.hold = threading.Event()
    path = f"/v2/a/blobs/{Digest.of(b'')}"
    fake.put(path, Canned(b"some", promise=100))
    instance, caught = Instance(server), []

    def work() -> None:
        try:
            instance.get(path, {}, 100)
        except Stopped as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert fake.held.wait(10)
    instance.stop()
    thread.join(10)
    assert len(caught) == 1
    with pytest.raises(Stopped):
        instance.get("/healthz", {}, 10)


def test_a_server_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """An explicit --server that nobody answers at is a failure, not a reason to start another."""
    assert main.run(["warm", "alpine", "--server", "http://127.0.0.1:1"]) == 1
    assert capsys.readouterr().err == (
        "registry-proxy: no instance answers at http://127.0.0.1:1 (Connection refused): "
        "start one by registry-proxy serve, or name another by --server URL\n"
    )


def test_another_program_is_no_instance(fake: FakeInstance, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What answers at --server without our health page, a registry say, is told as such."""
    fake.put("/healthz", Canned(status=404))
    assert main.run(["warm", "alpine", "--server", server]) == 1
    assert "not an instance of this program: /healthz answered 404" in capsys.readouterr().err


@pytest.fixture
def fallback(monkeypatch: pytest.MonkeyPatch, server: str) -> dict[str, object]:
    """An instance in this process, in place of the real one; what it was started with and whether it was stopped."""
    seen: dict[str, object] = {}

    async def serve(config: object, *, ready: object) -> None:
        seen["config"] = config
        ready([server])
        try:
            await asyncio.Event().wait()
        finally:
            seen["stopped"] = True

    monkeypatch.setitem(sys.modules, "registry_proxy.app", SimpleNamespace(serve=serve))
    return seen


@pytest.mark.usefixtures("alpine")
def test_without_a_running_instance_one_runs_for_as_long(
    fallback: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If nobody listens where the configuration says, an instance of our own does the work, on loopback, and is stopped."""
    file = tmp_path / "proxy.toml"
    file.write_text("[server]\nlisten = ['127.0.0.1:1']\n[upstream.'docker.io']\nlisten = ['127.0.0.1:2']\n")
    assert main.run(["warm", "alpine", "--platform", "linux/amd64", "--config", str(file), "--json"]) == 0
    assert result(capsys)["error"] is None
    config = fallback["config"]
    assert config.server.listen == ("127.0.0.1:0",)
    assert not any(upstream.listen for upstream in config.upstreams.values())
    assert fallback["stopped"] is True


def test_why_our_own_instance_does_not_start_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store that is locked by an instance elsewhere is the failure that is shown."""

    async def serve(_config: object, **_: object) -> None:
        raise StoreUnusable("the store is in use")

    monkeypatch.setitem(sys.modules, "registry_proxy.app", SimpleNamespace(serve=serve))
    assert main.run(["warm", "alpine", "--listen", "127.0.0.1:1"]) == 1
    assert capsys.readouterr().err == "registry-proxy: the store is in use\n"


def test_ctrl_c_ends_our_own_instance_and_the_pulls(
    fake: FakeInstance, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When serve() returns for a signal, the pulls under way are broken off."""
    fake.image("library/slow", "docker.io", [b"layer"], "latest")
    fake.hold = threading.Event()
    fake.put(f"/v2/library/slow/blobs/{Digest.of(b'layer')}?ns=docker.io", Canned(b"l", promise=5))

    async def serve(_config: object, *, ready: object) -> None:
        ready([server])
        await asyncio.to_thread(fake.held.wait, 10)

    monkeypatch.setitem(sys.modules, "registry_proxy.app", SimpleNamespace(serve=serve))
    assert main.run(["warm", "slow", "--listen", "127.0.0.1:1"]) == 130
    assert capsys.readouterr().out == ""


def test_nobody_at_the_address(unused_tcp_port: int) -> None:
    """An instance that cannot be reached is told by its URL and the reason, whatever is asked of it."""
    instance = Instance(f"http://127.0.0.1:{unused_tcp_port}")
    for ask in (instance.check_alive, lambda: instance.get("/", {}, 1)):
        with pytest.raises(InstanceUnreachable, match=rf"http://127.0.0.1:{unused_tcp_port} \(Connection refused\)"):
            ask()


@pytest.mark.parametrize(("speed", "text"), [(None, ""), (1536.0, "1.5 KiB/s"), (3 << 20, "3.0 MiB/s")])
def test_the_speed_has_the_units_of_sizes(speed: float | None, text: str) -> None:
    """A bar that counts MiB does not say MB/s beside it."""
    task = SimpleNamespace(finished_speed=None, speed=speed)
    assert str(warm._Speed().render(task)) == text


def test_our_own_instance_shares_store_and_upstreams() -> None:
    """Only the listeners differ."""
    config = load(None, {"XDG_CACHE_HOME": "/x"})
    assert warm.alone(config).store == config.store
    assert warm.alone(config).upstreams == config.upstreams


@pytest.mark.parametrize("text", ["amd64", "linux/", "linux/amd64/v8/x", "", "linux/amd 64"])
def test_no_platforms(text: str) -> None:
    """What is no platform is a wrong flag."""
    with pytest.raises(ConfigInvalid, match="--platform"):
        Wanted.parse(text)


def test_choosing_platforms() -> None:
    """Platforms match by system, architecture and, if given, variant; attestations only with all."""

    def descriptor(system: str, architecture: str, variant: str = "") -> Descriptor:
        return Descriptor("sha256:0", 1, platform=Platform(architecture, system, variant))

    amd, arm6, arm7, note = (
        descriptor("linux", "amd64"),
        descriptor("linux", "arm", "v6"),
        descriptor("linux", "arm", "v7"),
        descriptor("unknown", "unknown"),
    )
    everything = [amd, arm6, arm7, note]
    assert choose(everything, [Wanted.parse("linux/arm")]) == [arm6, arm7]
    assert choose(everything, [Wanted.parse("linux/arm/v7"), Wanted.parse("linux/amd64")]) == [amd, arm7]
    assert choose(everything, [Wanted.parse("all")]) == everything
    bare = Descriptor("sha256:0", 1)
    assert choose([bare], [Wanted.here()]) == [bare]
