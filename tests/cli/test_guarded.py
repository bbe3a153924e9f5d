"""Commands before upstreams that are not open: they show nobody's credentials, and say what to do."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from registry_proxy.cli import main
from registry_proxy.config import Account
from tests.fakes.instance import HOST, Bench, benches
from tests.fakes.upstream import REPOSITORY, FakeUpstream

IMAGE = f"{HOST}/{REPOSITORY}:v1"
USERS = {"alice": "$2b$05$" + "C" * 53}
COMMANDS = ("warm", "publish", "convert", "ls")


async def run(b: Bench, command: str, tree: Path) -> int:
    """The exit code of a command about the image."""
    words = {
        "warm": ("warm", IMAGE),
        "publish": ("publish", IMAGE, "--to", str(tree)),
        "convert": ("lazy", "convert", IMAGE),
        "ls": ("lazy", "ls", IMAGE),
    }[command]
    return await asyncio.to_thread(main.run, [*words, "--server", b.url])


def settings(upstream: FakeUpstream, access: str) -> dict[str, Any]:
    """Of an upstream that is not open; where a mode takes an account, that can read the image."""
    account = Account(username=upstream.username, password=upstream.password)
    return {
        "pass-through": {"access": "pass-through"},
        "users": {"access": "local", "readers": {"alice": ("*",)}, "htpasswd": USERS, "account": account},
        "networks": {"access": "local", "networks": ("127.0.0.0/8",), "account": account},
    }[access]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("access", ["pass-through", "users"])
async def test_what_needs_a_login_is_out_of_reach(
    access: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody's credentials are shown, nor is the account used for it: the command fails and says who can do it."""
    async with FakeUpstream(auth="bearer") as upstream:
        upstream.add_image(tag="v1")
        async with benches(tmp_path / "store", upstream)(listen=True, **settings(upstream, access)) as b:
            assert await run(b, command, tmp_path / "tree") == 1
        assert not upstream.asked("blob")
    said = "".join(capsys.readouterr())
    assert "401 UNAUTHORIZED" in said
    assert "have a client pull it that does (docs/access.md" in said
    assert not any(path.is_file() for path in (tmp_path / "tree").rglob("*"))


@pytest.mark.parametrize(("auth", "access"), [(None, "pass-through"), ("bearer", "networks")])
async def test_what_everybody_gets_there(
    auth: Any, access: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the upstream gives to everybody, or the proxy to whoever comes from there, is warmed; it is published in no case."""
    async with FakeUpstream(auth=auth) as upstream:
        upstream.add_image(tag="v1")
        async with benches(tmp_path / "store", upstream)(listen=True, **settings(upstream, access)) as b:
            assert await run(b, "warm", tmp_path / "tree") == 0
            assert await run(b, "publish", tmp_path / "tree") == 1
    assert "is not for everybody" in capsys.readouterr().err
