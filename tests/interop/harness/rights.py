"""Who may do what at the token server: accounts, repositories for everybody, and grants that can be taken back any time."""

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

_SCOPE = re.compile(r"repository:(.+):([a-z,*]+)\Z")


@dataclass(slots=True)
class Rights:
    """`passwords` by user; `public`: patterns of repositories that anybody may pull; `closed`: no tokens without an account.

    What is taken back counts from the next token on: tokens that are out live on, as they do at real registries.
    """

    passwords: dict[str, str] = field(default_factory=dict)
    public: set[str] = field(default_factory=set)
    closed: bool = False
    _grants: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    _refresh: dict[str, str] = field(default_factory=dict)

    def allow(self, user: str, repository: str, *actions: str) -> None:
        """The user may do this (`pull` if nothing is said) in the repositories of this pattern."""
        self._grants[user, repository] = frozenset(actions or ("pull",))

    def revoke(self, user: str, repository: str) -> None:
        """The user may do nothing there any more."""
        self._grants.pop((user, repository), None)

    def dismiss(self, user: str) -> None:
        """The account is gone, and its refresh tokens with it."""
        self.passwords.pop(user, None)
        self._refresh = {token: owner for token, owner in self._refresh.items() if owner != user}

    def knows(self, user: str, password: str) -> bool:
        """Whether this is an account and its password."""
        return self.passwords.get(user) == password

    def refresh_token(self, user: str) -> str:
        """A new one for the user, good until the user is dismissed."""
        token = secrets.token_urlsafe(24)
        self._refresh[token] = user
        return token

    def owner(self, refresh_token: str) -> str | None:
        """Whose refresh token this is."""
        return self._refresh.get(refresh_token)

    def access(self, user: str | None, scopes: Iterable[str]) -> list[dict[str, Any]]:
        """The `access` claim: of what the scopes ask for, what the user (None: anybody) may do; empty if that is nothing."""
        asked = [match.groups() for scope in scopes if (match := _SCOPE.match(scope))]
        granted = [self._grant(user, name, actions) for name, actions in asked]
        return [each for each in granted if each["actions"]]

    def _grant(self, user: str | None, name: str, actions: str) -> dict[str, Any]:
        may = sorted(set(actions.split(",")) & self._may(user, name))
        return {"type": "repository", "name": name, "actions": may}

    def _may(self, user: str | None, name: str) -> set[str]:
        may = {"pull"} if any(fnmatchcase(name, pattern) for pattern in self.public) else set()
        for (owner, pattern), actions in list(self._grants.items()):
            if owner == user and fnmatchcase(name, pattern):
                may |= actions
        return may


def everybody(passwords: Mapping[str, str], *, anonymous: bool) -> Rights:
    """Rights to pull everything, for whoever comes (`anonymous`) or for those with an account."""
    rights = Rights(dict(passwords), {"*"} if anonymous else set(), closed=not anonymous)
    for user in passwords:
        rights.allow(user, "*")
    return rights
