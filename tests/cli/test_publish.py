"""publish: what is written, what is refused, what happens when it is killed, and that instances can read it."""

import asyncio
import hashlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from registry_proxy.cli import main
from registry_proxy.config import Account
from registry_proxy.oci.content import parse_manifest
from registry_proxy.oci.digest import Digest
from tests.fakes.faults import Gate
from tests.fakes.instance import CHUNK, HOST, Bench, Benches, benches, noise
from tests.fakes.upstream import REPOSITORY, FakeUpstream

LAYERS = [noise(5 * CHUNK + 99), noise(CHUNK, 1)]
IMAGE = f"{HOST}/{REPOSITORY}:v1"
MANIFESTS = f"v2/{HOST}/{REPOSITORY}/manifests"

Run = Callable[..., "asyncio.Future[tuple[int, list[dict[str, object]]]]"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "tree"


@pytest.fixture
async def running(bench: Benches, upstream: FakeUpstream) -> AsyncIterator[Bench]:
    """An instance that listens."""
    async with bench(listen=True) as b:
        yield b


@pytest.fixture
def publish(running: Bench, root: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs publish against that instance; its exit code and what it says of each image."""

    async def run(*tokens: str) -> tuple[int, list[dict[str, object]]]:
        words = ["publish", *tokens, "--to", str(root), "--server", running.url, "--json"]
        code = await asyncio.to_thread(main.run, words)
        captured = capsys.readouterr()
        assert captured.out, captured.err
        return code, json.loads(captured.out)["images"]

    return run  # type: ignore[return-value]


def files(root: Path) -> dict[str, tuple[int, int]]:
    """Every file by its path, with what shows that it was written again."""
    return {
        str(path.relative_to(root)): (path.lstat().st_ino, path.lstat().st_mtime_ns)
        for path in root.rglob("*")
        if not path.is_dir() or path.is_symlink()
    }


def blob(root: Path, data: bytes) -> Path:
    digits = Digest.of(data).hex
    return root / "blobs/sha256" / digits[:2] / digits


async def test_an_image_is_published(publish: Run, upstream: FakeUpstream, root: Path) -> None:
    """Layers, config and manifest lie in the tree byte for byte, the tag leads to the manifest, and that is all."""
    digest = upstream.add_image(layers=LAYERS, tag="v1")
    code, [said] = await publish(IMAGE)
    assert (code, said["error"], said["manifests"], said["blobs"], said["present"]) == (0, None, 1, 3, 0)
    body = (root / MANIFESTS / "v1").read_bytes()
    assert Digest.of(body) == digest
    manifest = parse_manifest(body)
    assert manifest.config is not None
    for layer in LAYERS:
        assert blob(root, layer).read_bytes() == layer
    config = blob(root, upstream.content[Digest.parse(manifest.config.digest)])
    assert set(files(root)) == {
        f"{MANIFESTS}/v1",
        f"{MANIFESTS}/{digest}",
        *(str(path.relative_to(root)) for path in (config, *(blob(root, layer) for layer in LAYERS))),
    }


async def test_a_second_run_writes_nothing(publish: Run, upstream: FakeUpstream, root: Path) -> None:
    """What is there is neither fetched nor written again; a new layer is all that a new tag costs."""
    upstream.add_image(layers=LAYERS, tag="v1")
    await publish(IMAGE)
    before = files(root)
    code, [said] = await publish(IMAGE)
    assert (code, said["manifests"], said["blobs"], said["present"], said["bytes"]) == (0, 0, 0, 3, 0)
    assert files(root) == before
    upstream.add_image(layers=[*LAYERS, b"new"], tag="v2")
    _, [said] = await publish(IMAGE.replace("v1", "v2"))
    assert (said["manifests"], said["present"]) == (1, 3)
    assert before.items() <= files(root).items()


async def test_an_index_and_its_platforms(publish: Run, upstream: FakeUpstream, root: Path) -> None:
    """Of an index, the wanted platforms' images; the tag leads to the index itself."""
    amd = upstream.add_image(layers=[b"amd"])
    arm = upstream.add_image(layers=[b"arm"])
    index = upstream.add_index({"linux/amd64": amd, "linux/arm64": arm}, tag="v1")
    _, [said] = await publish(IMAGE, "--platform", "linux/arm64")
    assert said["manifests"] == 2
    assert (root / MANIFESTS / "v1").readlink() == Path(str(index))
    assert (root / MANIFESTS / str(arm)).exists()
    assert not (root / MANIFESTS / str(amd)).exists()
    assert not blob(root, b"amd").exists()


async def test_grafts_are_served_by_the_instance(
    publish: Run, running: Bench, upstream: FakeUpstream, root: Path
) -> None:
    """The path of each graft is one that the instance answers, without any header, with bytes of that hash."""
    upstream.add_image(layers=LAYERS, tag="v1")
    code, [said] = await publish(IMAGE, "--graft")
    assert (code, said["blobs"]) == (0, 3)
    assert not (root / "blobs").exists()
    markers = list(root.rglob(".cvmfsgraft-*"))
    assert len(markers) == 6 + 1 + 1
    for marker in markers:
        said_there = dict(line.split("=") for line in marker.read_text().splitlines())
        path = "/" + str(marker.with_name(marker.name.removeprefix(".cvmfsgraft-")).relative_to(root))
        async with running.wire() as wire:
            answer = await wire.ask(path)
        assert answer.status == 200
        assert "public" in answer.headers["Cache-Control"]
        assert len(answer.body) == int(said_there["size"])
        assert hashlib.sha1(answer.body).hexdigest() == said_there["checksum"]
    before = files(root)
    assert (await publish(IMAGE, "--graft"))[1][0]["present"] == 3
    assert files(root) == before


async def test_a_wish_list(publish: Run, upstream: FakeUpstream, root: Path, tmp_path: Path) -> None:
    """Tags with a star are looked up, page by page; one image that fails keeps no other from being published."""
    upstream.tag_page = 2
    for tag in ("v1.1", "v1.2", "v1.3", "v2.0", "latest"):
        upstream.add_image(layers=[tag.encode()], tag=tag)
    wishes = tmp_path / "wishes.yaml"
    url = f"https://{HOST}/{REPOSITORY}"
    listed = [f"{url}:v1.*", f"{url}:v1.2", f"{url}:gone", f"https://{HOST}/no/such:*", f"{url}:latest"]
    wishes.write_text("version: 1\ninput:\n" + "".join(f"  - '{one}'\n" for one in listed))
    code, said = await publish("--images", str(wishes))
    assert code == 1
    told = {str(one["image"]).removeprefix(f"{HOST}/"): one["error"] is None for one in said}
    name = REPOSITORY
    assert told == {
        f"{name}:v1.1": True,
        f"{name}:v1.2": True,
        f"{name}:v1.3": True,
        f"{name}:gone": False,
        "no/such:*": False,
        f"{name}:latest": True,
    }
    assert blob(root, b"v1.3").read_bytes() == b"v1.3"
    assert not blob(root, b"v2.0").exists()


@pytest.mark.parametrize("graft", [(), ("--graft",)])
async def test_private_images_are_refused(
    bench: Benches, root: Path, capsys: pytest.CaptureFixture[str], graft: tuple[str, ...], tmp_path: Path
) -> None:
    """What only the instance's own account may read goes nowhere, not even its manifest."""
    async with FakeUpstream(auth="basic") as private:
        private.add_image(layers=LAYERS, tag="v1")
        account = Account(username=private.username, password=private.password)
        async with benches(tmp_path / "private-store", private)(listen=True, account=account) as b:
            words = ["publish", IMAGE, "--to", str(root), "--server", b.url, *graft]
            assert await asyncio.to_thread(main.run, words) == 1
    assert "is not for everybody" in capsys.readouterr().err
    assert files(root) == {}


async def test_a_tree_read_back_with_the_upstream_dead(
    publish: Run, bench: Benches, upstream: FakeUpstream, root: Path, tmp_path: Path
) -> None:
    """Another instance that has the tree mounted serves every byte of it, although its store is empty and nobody else is there."""
    upstream.add_image(layers=LAYERS, tag="v1")
    await publish(IMAGE)
    make = benches(tmp_path / "other-store", upstream)
    async with make(listen=True, cvmfs=(root,)) as b:
        async with b.wire() as wire:
            body = (await wire.ask(f"/v2/{REPOSITORY}/manifests/v1?ns={HOST}")).body
            await upstream.stop()
            manifest = parse_manifest(body)
            for descriptor in (manifest.config, *manifest.layers):
                assert descriptor is not None
                path = f"/v2/{REPOSITORY}/blobs/{descriptor.digest}?ns={HOST}"
                answer = await wire.ask(path)
                assert (answer.status, str(Digest.of(answer.body))) == (200, descriptor.digest)
                part = await wire.ask(path, "Range: bytes=1-1")
                assert (part.status, part.body) == (206, answer.body[1:2])
        assert b.instance.store.stats().chunks == 0


async def test_killed_and_run_again(upstream: FakeUpstream, root: Path, tmp_path: Path, unused_tcp_port: int) -> None:
    """SIGKILL in the middle of a layer leaves only whole blobs; the next run brings the rest and sweeps up."""
    upstream.add_image(layers=LAYERS, tag="v1")
    upstream.gate = Gate(3 * CHUNK)
    words = (
        "publish", IMAGE, "--to", str(root), "--listen", f"127.0.0.1:{unused_tcp_port}",
        "--store", str(tmp_path / "store"), "--upstream", f"{HOST}={upstream.url}", "--json",
    )  # fmt: skip

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "registry_proxy", *words, stdout=asyncio.subprocess.PIPE
        )

    killed = await start()
    try:
        await asyncio.wait_for(upstream.gate.blocked(), 30)
    finally:
        killed.send_signal(signal.SIGKILL)
        await killed.communicate()
    for path in (root / "blobs").rglob("*"):
        assert path.is_dir() or Digest.of(path.read_bytes()).hex == path.name
    assert not (root / MANIFESTS / "v1").exists()
    upstream.gate.open()
    again = await start()
    out, _ = await asyncio.wait_for(again.communicate(), 60)
    [said] = json.loads(out)["images"]
    assert (again.returncode, said["error"]) == (0, None)
    assert [blob(root, layer).read_bytes() for layer in LAYERS] == LAYERS
    assert not (root / ".partial").exists()


async def test_duccs_urls_are_answered(running: Bench, upstream: FakeUpstream) -> None:
    """With DUCC_<R>_PROXY=host/registry DUCC asks /v2/registry/repository/…: tags, manifests as it accepts them, blobs whole."""
    digest = upstream.add_image(layers=LAYERS, tag="v1")
    base = f"/v2/{HOST}/{REPOSITORY}"
    accept = (
        "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json, "
        "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.index.v1+json"
    )
    async with running.wire() as wire:
        assert json.loads((await wire.ask(f"{base}/tags/list")).body)["tags"] == ["v1"]
        manifest = await wire.ask(f"{base}/manifests/v1", f"Accept: {accept}")
        assert (manifest.status, manifest.headers["Docker-Content-Digest"]) == (200, str(digest))
        for layer in LAYERS:
            answer = await wire.ask(f"{base}/blobs/{Digest.of(layer)}")
            assert (answer.status, answer.body) == (200, layer)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "name at least one image"),
        (("--images", "/nonexistent.yaml"), "/nonexistent.yaml: No such file"),
        (("Not An Image",), "Not An Image"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], why: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake is one line, and nothing is made."""
    assert main.run(["publish", *words, "--to", str(root)]) == 2
    assert why in capsys.readouterr().err
    assert not root.exists()
