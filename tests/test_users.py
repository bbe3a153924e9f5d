"""The file of users, as an instance reads it."""

import subprocess
from pathlib import Path

import pytest

from registry_proxy.access.users import Users as Known
from registry_proxy.config import Config, Store, Users
from registry_proxy.config import users as module
from registry_proxy.config.users import with_users
from registry_proxy.errors import ConfigInvalid
from registry_proxy.plan.basic import Basic


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "users"


@pytest.fixture
def config(file: Path) -> Config:
    return Config(Store(file), {}, users=Users(htpasswd=file))


def test_what_htpasswd_writes(file: Path, config: Config) -> None:
    """A file made by Apache's own program is read; its other hashes are refused, and the line is told."""
    subprocess.run(["htpasswd", "-cbB", file, "alice", "wonder"], check=True, capture_output=True)
    found = with_users(config)
    assert Known(found.htpasswd).check(Basic("alice", "wonder")) == "alice"
    assert "$2" not in repr(found)
    subprocess.run(["htpasswd", "-bm", file, "bob", "builder"], check=True, capture_output=True)
    with pytest.raises(ConfigInvalid, match=r"users.htpasswd: .*users: line 2: the hash is MD5"):
        with_users(config)


def test_without_a_file(file: Path) -> None:
    """Nobody is known where no file is named."""
    config = Config(Store(file), {})
    assert with_users(config) is config


def test_files_that_cannot_be_read(file: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps a file from being read is told, with its name and its key."""
    with pytest.raises(ConfigInvalid, match=r"users.htpasswd: .*users: No such file"):
        with_users(config)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigInvalid, match="not UTF-8"):
        with_users(config)
    monkeypatch.setattr(module, "_LARGEST", 1)
    with pytest.raises(ConfigInvalid, match="larger than"):
        with_users(config)
