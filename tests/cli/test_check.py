"""check: what it says about upstreams, the store, and what may not be meant."""

import json
from pathlib import Path

import pytest

from registry_proxy.cli import main
from registry_proxy.cli.advice import look_at_store, warnings
from registry_proxy.cli.findings import Probed, StoreFound
from registry_proxy.cli.probe import probe_all
from registry_proxy.config import Config, Flags, load
from registry_proxy.oci.names import ImageName, SourceHost
from tests.fakes.upstream import REPOSITORY, FakeUpstream

NAME = SourceHost("a.example")


def config_of(tmp_path: Path, text: str = "", **upstreams: str) -> Config:
    file = tmp_path / "proxy.toml"
    file.write_text(f"default_upstreams = false\n{text}")
    return load(file, {"XDG_CACHE_HOME": str(tmp_path)}, Flags(upstreams=tuple(upstreams.values())))


async def probed(upstream: FakeUpstream, tmp_path: Path, image: str | None = None) -> Probed:
    """What check finds at one fake upstream."""
    config = config_of(tmp_path, a=f"{NAME}={upstream.url}")
    images = {NAME: ImageName.parse(image)} if image else {}
    [found] = await probe_all(config, images)
    return found


async def test_an_open_upstream_answers(tmp_path: Path) -> None:
    """An upstream that answers is reported with its time; ranges stay unknown without an image."""
    async with FakeUpstream() as upstream:
        found = await probed(upstream, tmp_path)
    assert (found.status, found.authorization, found.error) == (200, "none", None)
    assert (found.ranges, found.multi_range) == ("unknown", "unknown")
    assert found.seconds is not None


@pytest.mark.parametrize(("auth", "status", "named"), [("bearer", 200, "bearer"), ("basic", 401, "required")])
async def test_the_authorization_wanted_is_named(auth: str, status: int, named: str, tmp_path: Path) -> None:
    """The scheme of the challenge is shown; a refusal of anonymous requests is an answer too."""
    async with FakeUpstream(auth=auth) as upstream:
        found = await probed(upstream, tmp_path)
    assert (found.authorization, found.error) == (named, None)
    assert found.status == status


@pytest.mark.parametrize(
    ("ranges", "multi_range", "redirect", "expected"),
    [
        (True, "parts", False, ("yes", "yes")),
        (True, "whole", False, ("yes", "no")),
        (True, 501, True, ("yes", "no")),
        (True, 400, False, ("yes", "no")),
        (False, "parts", False, ("no", "no")),
    ],
)
async def test_ranges_are_tried_on_an_image(
    ranges: bool, multi_range: str | int, redirect: bool, expected: tuple[str, str], tmp_path: Path
) -> None:
    """With an image, single and multiple ranges of its largest blob are asked for, through redirects too."""
    async with FakeUpstream(ranges=ranges, multi_range=multi_range, redirect=redirect) as upstream:
        upstream.add_image(layers=[b"x" * 5000, b"y" * 100], tag="v1")
        found = await probed(upstream, tmp_path, f"{NAME}/{REPOSITORY}:v1")
    assert (found.ranges, found.multi_range) == expected
    assert found.error is None


async def test_an_unknown_image_is_a_failure(tmp_path: Path) -> None:
    """An image that is not there says so instead of guessing about ranges."""
    async with FakeUpstream() as upstream:
        found = await probed(upstream, tmp_path, f"{NAME}/{REPOSITORY}:gone")
    assert found.error is not None
    assert found.ranges == "unknown"


async def test_every_mirror_is_tried_by_itself(tmp_path: Path, unused_tcp_port: int) -> None:
    """A dead mirror is seen although another one answers, in the configuration's order."""
    dead = f"http://127.0.0.1:{unused_tcp_port}"
    async with FakeUpstream() as upstream:
        config = config_of(tmp_path, f"[upstream.'{NAME}']\nurls = ['{dead}', '{upstream.url}']\n")
        first, second = await probe_all(config, {})
    assert (first.url, first.status) == (dead, None)
    assert first.error is not None
    assert second.error is None


def test_the_verdict_is_the_exit_code(tmp_path: Path, unused_tcp_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """An upstream that does not answer makes it 1, in words and in JSON."""
    file = tmp_path / "proxy.toml"
    file.write_text("default_upstreams = false\n")
    tokens = ["check", "--config", str(file), "--upstream", f"{NAME}=http://127.0.0.1:{unused_tcp_port}"]
    assert main.run(tokens) == 1
    out = capsys.readouterr().out
    assert f"upstream {NAME}: no: http://127.0.0.1:{unused_tcp_port}: no connection" in out
    assert out.endswith("not ok: 1 of 1 upstream URL failed\n")
    assert main.run([*tokens, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert found["store"]["error"] is None
    assert found["upstreams"][0]["upstream"] == NAME


@pytest.mark.parametrize("terminal", [True, False])
def test_a_person_is_told_what_is_waited_for(
    terminal: bool,
    tmp_path: Path,
    unused_tcp_port: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A terminal shows that something is going on, which may take 20 s; a log of errors has none of it."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    file = tmp_path / "proxy.toml"
    file.write_text("default_upstreams = false\n")
    assert main.run(["check", "--config", str(file), "--upstream", f"{NAME}=http://127.0.0.1:{unused_tcp_port}"]) == 1
    assert ("trying 1 upstream" in capsys.readouterr().err) == terminal


def test_an_image_of_an_unknown_upstream_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """--image must belong to a configured upstream."""
    assert main.run(["check", "--image", "nowhere.example/a/b"]) == 2
    assert "nowhere.example is not a configured upstream" in capsys.readouterr().err


MOUNTS = "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n22 21 0:40 / {home} rw - nfs4 server:/home rw\n"


def test_a_store_on_a_network_file_system_is_an_error(tmp_path: Path) -> None:
    """Where the store would lie on NFS, check says so before serve does."""
    config = config_of(tmp_path, a=f"{NAME}=http://x")
    found = look_at_store(config, MOUNTS.format(home=tmp_path))
    assert (found.file_system, found.exists) == ("nfs4", False)
    assert "network file system" in str(found.error)
    assert look_at_store(config, MOUNTS.format(home="/elsewhere")).error is None


def test_a_terminal_that_is_too_narrow_cuts_nothing(
    tmp_path: Path, unused_tcp_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, URLs and reasons are folded, or lines of their own."""
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    file = tmp_path / "proxy.toml"
    file.write_text("default_upstreams = false\n")
    name = "a-registry-with-a-rather-long-name.department.example"
    main.run(["check", "--config", str(file), "--upstream", f"{name}=http://127.0.0.1:{unused_tcp_port}"])
    out = capsys.readouterr().out
    assert "…" not in out
    assert f"upstream {name}: no: http://127.0.0.1:{unused_tcp_port}: no connection" in out


def test_a_store_below_a_file_is_an_error(tmp_path: Path) -> None:
    """A store path that leads through a file cannot become a directory."""
    (tmp_path / "file").write_text("")
    config = config_of(tmp_path, f"[store]\npath = '{tmp_path}/file/store'\n", a=f"{NAME}=http://x")
    assert "is not a directory" in str(look_at_store(config, "").error)


def advice(tmp_path: Path, text: str, free: int = 1 << 40, limit: int = 1 << 30) -> list[str]:
    return list(
        warnings(config_of(tmp_path, text), StoreFound("/x", exists=False, file_system="ext4", free=free, limit=limit))
    )


def test_an_account_open_to_others_is_warned_about(tmp_path: Path) -> None:
    """Patterns make it allowed; everybody reading through the account stays worth a line."""
    table = f"[upstream.'{NAME}']\nrepositories = ['atlas/*']\naccount = {{username = 'u', password = 'p'}}\n"
    [line] = advice(tmp_path, "[server]\nlisten = [':5000']\n" + table)
    assert line == f'upstream."{NAME}": everybody who reaches :5000 can read atlas/* through its account'
    assert advice(tmp_path, table) == []


def test_a_password_in_the_clear_is_warned_about(tmp_path: Path) -> None:
    """An account at a plain http upstream elsewhere; not at one on this machine."""
    account = "account = {username = 'u', password = 'p'}\n"
    [line] = advice(tmp_path, f"[upstream.'{NAME}']\nurls = ['http://registry.example']\n{account}")
    assert "unencrypted" in line
    assert (
        advice(tmp_path, f"[upstream.'{NAME}']\nurls = ['http://127.0.0.1:5001', 'https://a.example']\n{account}") == []
    )


def test_password_files_are_looked_at(tmp_path: Path) -> None:
    """A password file that is missing, or open to other users, gets a line each."""
    text = f"[upstream.'{NAME}']\naccount = {{username = 'u', password_file = 'secret'}}\n"
    [line] = advice(tmp_path, text)
    assert "cannot be read" in line
    secret = tmp_path / "secret"
    secret.write_text("p")
    secret.chmod(0o644)
    [line] = advice(tmp_path, text)
    assert "can be read by other users" in line
    secret.chmod(0o600)
    assert advice(tmp_path, text) == []


def test_a_limit_beyond_the_disk_is_warned_about(tmp_path: Path) -> None:
    """A new store that may grow larger than what is free gets a line."""
    [line] = advice(tmp_path, f"[upstream.'{NAME}']\n", free=1 << 20, limit=1 << 30)
    assert line == "store.limit: 1.0 GiB, but only 1.0 MiB are free"


def test_mounted_tiers_are_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mount that answers and one that is not there are both told; neither decides whether the configuration works."""
    words = ["check", "--upstream", f"{NAME}=http://127.0.0.1:1", "--cvmfs", str(tmp_path), "--cvmfs", "/nonexistent"]
    main.run([*words, "--store", str(tmp_path / "store"), "--json"])
    there, missing = json.loads(capsys.readouterr().out)["tiers"]
    assert there == {"path": str(tmp_path), "error": None}
    assert "No such file" in missing["error"]
    main.run([*words, "--store", str(tmp_path / "store")])
    out = capsys.readouterr().out
    assert f"cvmfs {tmp_path}: answers" in out
    assert "cvmfs /nonexistent: no: " in out


def test_users_may_be_read_by_others(tmp_path: Path) -> None:
    """A file of users that everybody can read is warned about, and so are passwords that come unencrypted; accounts of a guarded
    upstream are not: readers have their patterns."""
    file = tmp_path / "users"
    file.write_text("")
    file.chmod(0o644)
    text = f"""
        [server]
        listen = [":5000"]
        [users]
        htpasswd = "{file}"
        [upstream."a.example"]
        access = "local"
        readers = {{ alice = ["*"] }}
        account = {{ username = "u", password = "p" }}
        [upstream."b.example"]
        access = "pass-through"
    """
    config = config_of(tmp_path, text)
    store = StoreFound("/s", exists=True, file_system="ext4", free=1, limit=1)
    assert list(warnings(config, store)) == [
        f"users.htpasswd: {file} can be read by other users",
        'upstream."a.example": passwords of its readers come to :5000 unencrypted',
        'upstream."b.example": passwords of its readers come to :5000 unencrypted',
    ]


def test_a_broken_file_of_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """check refuses a file of users that serve would refuse."""
    (tmp_path / "users").write_text("alice:secret\n")
    config = tmp_path / "proxy.toml"
    config.write_text('default_upstreams = false\nusers.htpasswd = "users"\n[upstream."a.example"]\n')
    assert main.run(["check", "--config", str(config)]) == 2
    assert "users: line 1: the hash is none" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["check", "serve"])
def test_a_file_of_authorities_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """It is named, with its key."""
    config = tmp_path / "proxy.toml"
    config.write_text('default_upstreams = false\n[upstream."a.example"]\nca = "ca.pem"\n')
    assert main.run([verb, "--config", str(config), "--store", str(tmp_path / "store")]) == 2
    assert f'upstream."a.example".ca: {tmp_path}/ca.pem: No such file' in capsys.readouterr().err
