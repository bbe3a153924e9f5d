import base64
import json
from pathlib import Path

import pytest

from registry_proxy.config import Account
from registry_proxy.errors import AccountRefused
from registry_proxy.net import accounts
from registry_proxy.net.accounts import Credential, load_credential

HELPER = """#!/bin/sh
read server
case "$server" in
  known.example) echo '{"ServerURL":"x","Username":"robot","Secret":"from helper"}' ;;
  token.example) echo '{"ServerURL":"x","Username":"<token>","Secret":"refresh"}' ;;
  slow.example) exec sleep 60 ;;
  odd.example) echo 'hello' ;;
  broken.example) exit 3 ;;
  *) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""


@pytest.fixture
def _helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "docker-credential-fake"
    script.write_text(HELPER)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def docker_config(tmp_path: Path, **fields: object) -> Account:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields))
    return Account(docker_config=path)


async def test_password_from_a_file(tmp_path: Path) -> None:
    """The password is the file's text without the end of its line."""
    path = tmp_path / "password"
    path.write_text("hunter2\n")
    assert await load_credential(Account("robot", password_file=path), "any.example") == Credential("robot", "hunter2")


async def test_missing_password_file(tmp_path: Path) -> None:
    """A password file that cannot be read is trouble with our account."""
    with pytest.raises(AccountRefused):
        await load_credential(Account("robot", password_file=tmp_path / "none"), "any.example")


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("registry.example", "registry.example"),
        ("registry.example:5000", "registry.example:5000"),
        ("https://registry.example/v2/", "registry.example"),
        ("https://index.docker.io/v1/", "registry-1.docker.io"),
    ],
)
async def test_docker_auths(tmp_path: Path, key: str, host: str) -> None:
    """Docker's file is searched under every name that docker login may have used."""
    auth = base64.b64encode(b"robot:pass:word").decode()
    account = docker_config(tmp_path, auths={key: {"auth": auth}})
    assert await load_credential(account, host) == Credential("robot", "pass:word")
    assert await load_credential(account, "other.example") is None


async def test_identity_token(tmp_path: Path) -> None:
    """An identity token is kept apart from name and password."""
    account = docker_config(tmp_path, auths={"a.example": {"auth": "", "identitytoken": "refresh"}})
    assert await load_credential(account, "a.example") == Credential("", "", "refresh")


@pytest.mark.parametrize("text", ["{", '{"auths":{"a.example":{"auth":"%%%"}}}', '{"auths":[]}', "\udcff"])
async def test_broken_docker_config(tmp_path: Path, text: str) -> None:
    """A docker config that cannot be understood is trouble with our account, never a traceback."""
    path = tmp_path / "config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(AccountRefused):
        await load_credential(Account(docker_config=path), "a.example")


@pytest.mark.usefixtures("_helper")
async def test_credential_helper(tmp_path: Path) -> None:
    """Helpers are asked, the one of the registry before the general store."""
    account = docker_config(tmp_path, credHelpers={"known.example": "fake"}, credsStore="fake")
    assert await load_credential(account, "known.example") == Credential("robot", "from helper")
    assert await load_credential(account, "token.example") == Credential("", "", "refresh")
    assert await load_credential(account, "unknown.example") is None


@pytest.mark.usefixtures("_helper")
@pytest.mark.parametrize("host", ["slow.example", "odd.example", "broken.example"])
async def test_failing_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """A helper that hangs, talks nonsense or fails is trouble with our account, within its time limit."""
    monkeypatch.setattr(accounts, "_HELPER_TIMEOUT", 0.3)
    with pytest.raises(AccountRefused):
        await load_credential(docker_config(tmp_path, credsStore="fake"), host)


@pytest.mark.parametrize("name", ["../evil", "does-not-exist", "a b"])
async def test_helper_that_cannot_be(tmp_path: Path, name: str) -> None:
    """A helper's name is no path, and a missing one is trouble with our account."""
    with pytest.raises(AccountRefused):
        await load_credential(docker_config(tmp_path, credsStore=name), "a.example")


def test_credentials_do_not_show() -> None:
    """Neither name nor password appears in a credential's text."""
    assert "hunter2" not in repr(Credential("robot", "hunter2", "refresh"))
    assert "refresh" not in repr(Credential("robot", "hunter2", "refresh"))
