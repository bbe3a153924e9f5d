"""serve: what it starts, and what it says when it is up."""

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from registry_proxy.cli import main
from registry_proxy.cli.serve import notify_systemd, welcome
from registry_proxy.config import Config, Flags, load

URL = "http://127.0.0.1:5000"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that the composition root was asked to run, in place of running them."""
    configs = []

    async def serve(config: Config, *, ready: object, reread: object) -> None:
        configs.append(config)
        ready([URL])

    monkeypatch.setitem(sys.modules, "registry_proxy.app", SimpleNamespace(serve=serve))
    return configs


def test_flags_reach_the_instance(served: list[Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The configuration that runs is the file with the flags over it; without a terminal nothing is said."""
    tokens = [
        "serve",
        "--listen",
        "127.0.0.1:1",
        "--listen",
        "[::1]:2",
        "--store",
        str(tmp_path),
        "--store-limit",
        "1GiB",
    ]
    assert main.run([*tokens, "--upstream", "gitlab.example=http://127.0.0.1:5001"]) == 0
    [config] = served
    assert config.server.listen == ("127.0.0.1:1", "[::1]:2")
    assert (config.store.path, config.store.limit) == (tmp_path, 1 << 30)
    assert config.upstreams["gitlab.example"].urls == ("http://127.0.0.1:5001",)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_is_told_what_to_do_next(
    served: list[Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal: where it listens, where the store is, what to paste, how to try it."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main.run(["serve"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip() == welcome(served[0], [URL]).strip()


def test_the_welcome() -> None:
    """Every line a newcomer needs is there."""
    text = welcome(load(None, {"XDG_CACHE_HOME": "/x"}, Flags(store_limit="2GiB")), [URL, "http://[::1]:5000"])
    for part in (
        f"listens on {URL}, http://[::1]:5000",
        "/x/registry-proxy, at most 2.0 GiB",
        f'[host."{URL}"]',
        f"curl {URL}/readyz",
    ):
        assert part in text


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(abstract: bool, tmp_path: Path) -> None:
    """READY=1 goes to the socket systemd named, in the file system or abstract."""
    address = f"@registry-proxy-test-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + address[1:] if abstract else address)
        listening.settimeout(10)
        notify_systemd(address)
        assert listening.recv(100) == b"READY=1"


def test_without_systemd_nothing_happens() -> None:
    """No NOTIFY_SOCKET, nobody to tell."""
    notify_systemd(None)
