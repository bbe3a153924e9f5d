"""The proxy's own users: names, and what each may read."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.oci.names import Repository
from registry_proxy.plan.users import Readers, user_name

READERS = Readers({"alice": ["private/*", "one"], "bob": ["*"], "*": ["open/*"], "eve": []})


@pytest.mark.parametrize(
    ("user", "repository", "allowed"),
    [
        ("alice", "private/app", True),
        ("alice", "private/team/app", True),
        ("alice", "one", True),
        ("alice", "one/more", False),
        ("alice", "not/private/app", False),
        ("alice", "private", False),
        ("alice", "open/app", True),
        ("bob", "anything/at/all", True),
        ("eve", "private/app", False),
        ("eve", "open/app", True),
        ("stranger", "private/app", False),
        ("stranger", "open/app", True),
    ],
)
def test_patterns(user: str, repository: str, allowed: bool) -> None:
    """A user reads what one of their patterns names as a whole, or one of everybody's."""
    assert READERS.may_read(user_name(user), Repository(repository)) is allowed


def test_nobody_reads_by_default() -> None:
    """Who is not named, and no pattern for everybody, means no."""
    assert not Readers({"alice": ["*"]}).may_read(user_name("bob"), Repository("app"))


def test_listing() -> None:
    """The names of all repositories are for those who may read every one."""
    assert READERS.may_list(user_name("bob"))
    assert not READERS.may_list(user_name("alice"))
    assert Readers({"*": ["*"]}).may_list(user_name("anybody"))


@pytest.mark.parametrize("text", ["", "*", "a:b", "a\nb", "a\0", " a", "a ", "#a", "a" * 256, "\x7f"])
def test_names_that_are_none(text: str) -> None:
    """What would break a line of the file, a header or a pattern is no name."""
    with pytest.raises(ValueError, match="no name of a user"):
        user_name(text)


@given(st.text())
def test_names(text: str) -> None:
    """Any text is a name as it stands, or is refused."""
    with contextlib.suppress(ValueError):
        assert user_name(text) == text
