"""The users of the htpasswd file."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import bcrypt
import pytest
from argon2 import PasswordHasher

from registry_proxy.access import users as module
from registry_proxy.access.users import Users
from registry_proxy.errors import ConfigInvalid
from registry_proxy.plan.basic import Basic
from registry_proxy.plan.users import User


def hashed(password: str) -> str:
    """A hash that is checked quickly."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


@pytest.fixture
def known() -> Users:
    """alice by bcrypt, bob by argon2."""
    return Users({User("alice"): hashed("wonder"), User("bob"): PasswordHasher(1, 64, 1).hash("builder")})


@pytest.mark.parametrize(
    ("name", "password", "right"),
    [
        ("alice", "wonder", True),
        ("bob", "builder", True),
        ("alice", "builder", False),
        ("bob", "wonder", False),
        ("alice", "", False),
        ("alice", "wonder\0", False),
        ("Alice", "wonder", False),
        ("eve", "wonder", False),
        ("eve", "builder", False),
        ("", "wonder", False),
    ],
)
def test_passwords(known: Users, name: str, password: str, right: bool) -> None:
    """A password is right for its own user and for nobody else, an unknown one included."""
    assert known.check(Basic(name, password)) == (name if right else None)


def test_nobody_is_known() -> None:
    """Without users nobody is right."""
    assert Users({}).check(Basic("alice", "wonder")) is None


def test_an_unknown_name_costs_what_a_known_one_costs(known: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each password is compared with exactly one hash; that of an unknown name always with the same one."""
    compared: list[str] = []
    real: Callable[[str, str], bool] = module._matches
    monkeypatch.setattr(module, "_matches", lambda own, password: compared.append(own) or real(own, password))
    for name in ("alice", "bob", *(f"user-{number}" for number in range(64))):
        assert known.check(Basic(name, "guess")) is None
        assert known.check(Basic(name, "other")) is None
    pairs = list(zip(compared[::2], compared[1::2], strict=True))
    assert len(pairs) == 66
    assert all(first == second for first, second in pairs)
    assert len({first for first, _ in pairs[2:]}) == 2


def test_long_passwords() -> None:
    """bcrypt looks at 72 bytes; a longer password is right by those, as htpasswd makes it."""
    known = Users({User("alice"): hashed("x" * 72)})
    assert known.check(Basic("alice", "x" * 100)) == "alice"
    assert known.check(Basic("alice", "x" * 71 + "y" * 9)) is None


def test_what_htpasswd_writes(tmp_path: Path) -> None:
    """A file made by Apache's own program is read; its other hashes are refused, and the line is told."""
    file = tmp_path / "users"
    subprocess.run(["htpasswd", "-cbB", file, "alice", "wonder"], check=True, capture_output=True)
    assert Users.read(file).check(Basic("alice", "wonder")) == "alice"
    subprocess.run(["htpasswd", "-bm", file, "bob", "builder"], check=True, capture_output=True)
    with pytest.raises(ConfigInvalid, match=r"users.htpasswd: .*users: line 2: the hash is MD5"):
        Users.read(file)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps a file from being read is told, with its name and its key."""
    file = tmp_path / "users"
    with pytest.raises(ConfigInvalid, match=r"users.htpasswd: .*users: No such file"):
        Users.read(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigInvalid, match="not UTF-8"):
        Users.read(file)
    monkeypatch.setattr(module, "_LARGEST", 1)
    with pytest.raises(ConfigInvalid, match="larger than"):
        Users.read(file)
