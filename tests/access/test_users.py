"""The users of the htpasswd file."""

from collections.abc import Callable

import bcrypt
import pytest
from argon2 import PasswordHasher

from registry_proxy.access import users as module
from registry_proxy.access.users import Users
from registry_proxy.plan.basic import Basic


def hashed(password: str) -> str:
    """A hash that is checked quickly."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


@pytest.fixture
def known() -> Users:
    """alice by bcrypt, bob by argon2."""
    return Users({"alice": hashed("wonder"), "bob": PasswordHasher(1, 64, 1).hash("builder")})


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
    known = Users({"alice": hashed("x" * 72)})
    assert known.check(Basic("alice", "x" * 100)) == "alice"
    assert known.check(Basic("alice", "x" * 71 + "y" * 9)) is None
