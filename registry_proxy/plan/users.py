"""The proxy's own users: what one can be called, and what each may read."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import translate
from typing import Final, NewType

from registry_proxy.oci.names import Repository

User = NewType("User", str)

EVERY: Final = "*"
"""In place of a name: every user who is known."""

_NAME = re.compile(r"[^\x00-\x1f\x7f:]{1,255}\Z")


def user_name(text: str) -> User:
    """A checked name; raises ValueError. RFC 7617 §2 allows it no colon and no control character."""
    if not _NAME.match(text) or text == EVERY or text.startswith("#") or text != text.strip():
        raise ValueError(
            f"{text[:80]!r} is no name of a user: no colon, control character or outer space, and not {EVERY!r}"
        )
    return User(text)


class Readers:
    """Who may read which repositories of an upstream. ``patterns``: of repositories (fnmatch), by user or ``EVERY``."""

    def __init__(self, patterns: Mapping[str, Sequence[str]]) -> None:
        self._patterns = {user: re.compile("|".join(map(translate, each))) for user, each in patterns.items() if each}
        self._everything = {user for user, each in patterns.items() if EVERY in each}

    def may_read(self, user: User, repository: Repository) -> bool:
        """True if this user may read this repository."""
        return any(
            own is not None and own.match(repository) is not None for own in map(self._patterns.get, (user, EVERY))
        )

    def may_list(self, user: User) -> bool:
        """True if this user may see the names of all repositories: only who may read each of them, by the pattern ``*``."""
        return not self._everything.isdisjoint((user, EVERY))
