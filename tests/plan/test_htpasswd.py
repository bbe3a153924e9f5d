"""The file of users."""

import contextlib

import bcrypt
import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.plan.htpasswd import is_bcrypt, parse

BCRYPT = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
ARGON2 = PasswordHasher(1, 64, 1).hash("secret")


def test_file() -> None:
    """Each line is a user; comments and empty lines are none."""
    users = parse(f"# people\nalice:{BCRYPT}\n\nbob:{ARGON2}\r\n  \nfirst last:{BCRYPT.replace('$2b$', '$2y$')}")
    assert users == {"alice": BCRYPT, "bob": ARGON2, "first last": BCRYPT.replace("$2b$", "$2y$")}
    assert is_bcrypt(users["alice"])  # type: ignore[index]
    assert not is_bcrypt(users["bob"])  # type: ignore[index]


@pytest.mark.parametrize("make", [PasswordHasher(), PasswordHasher(2, 19456, 1, 16, 8), PasswordHasher(1, 47104, 1)])
def test_usual_costs_of_argon2(make: PasswordHasher) -> None:
    """What the library and current advice make of a password is taken."""
    hashed = make.hash("secret")
    assert parse(f"alice:{hashed}") == {"alice": hashed}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("alice:$apr1$L/FIStNK$Nn4orZvBFl3b4iVravfac0", "line 2: the hash is MD5, .*htpasswd -B"),
        ("alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "the hash is SHA-1"),
        ("alice:$6$salt$" + "a" * 86, "the hash is SHA-512"),
        ("alice:rl.3StKT.4T8M", "none of those that can be told"),
        ("alice:secret", "none of those"),
        ("alice", "none of those"),
        ("alice:", "none of those"),
        (":" + BCRYPT, "no name of a user"),
        ("*:" + BCRYPT, "no name of a user"),
        ("alice:" + BCRYPT[:-1], "none of those"),
        ("alice:" + BCRYPT + "x", "none of those"),
        ("alice:$2x" + BCRYPT[3:], "none of those"),
        ("alice:$2b$31" + BCRYPT[6:], "a cost of bcrypt is between 4 and 16"),
        ("alice:$2b$03" + BCRYPT[6:], "a cost of bcrypt"),
        ("alice:" + ARGON2.replace("m=64", "m=99999999"), "argon2 may use up to"),
        ("alice:" + ARGON2.replace("t=1", "t=0"), "argon2 may use"),
        ("alice:" + ARGON2.replace("p=1", "p=64"), "argon2 may use"),
        ("alice:" + ARGON2.replace("m=64,t=1", "m=1048576,t=9"), "argon2 may use"),
        ("bob:" + BCRYPT, "line 2: 'bob' has a line already"),
    ],
)
def test_lines_that_are_refused(line: str, problem: str) -> None:
    """A wrong line is told by its number and by what is wrong, and repeats no hash."""
    with pytest.raises(ValueError, match=problem) as error:
        parse(f"bob:{BCRYPT}\n{line}\n")
    assert not any(part in str(error.value) for part in line.partition(":")[2].split("$") if len(part) > 8)


@given(
    st.text(),
    st.lists(st.sampled_from(["alice", ":", "$2b$", "$argon2id$", BCRYPT, ARGON2, "\n", "#", "$", "m=1,t=1,p=1"])),
)
def test_any_file(text: str, words: list[str]) -> None:
    """A file is read, every user with a hash that can be checked, or refused by its one error."""
    for file in (text, "".join(words)):
        with contextlib.suppress(ValueError):
            assert all(hashed.startswith(("$2", "$argon2")) for hashed in parse(file).values())
