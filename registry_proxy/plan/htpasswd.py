"""The file of users: ``NAME:HASH``, one per line, as Apache's htpasswd writes it. Only hashes that are slow to guess are taken.

What is wrong is told by its line; no part of a hash is ever repeated.
"""

import re
from typing import Final

from registry_proxy.plan.users import user_name

_BCRYPT = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}\Z")
_ARGON2 = re.compile(
    r"\$argon2(?:id|i|d)\$v=(?:16|19)\$m=([0-9]{1,9}),t=([0-9]{1,4}),p=([0-9]{1,3})\$[A-Za-z0-9+/]{11,64}\$[A-Za-z0-9+/]{22,172}\Z"
)
_BCRYPT_COSTS: Final = range(4, 17)
"""At 16 one check takes some six seconds."""

_MOST_MEMORY: Final = 1 << 20
_MOST_WORK: Final = 1 << 22
"""KiB that one check with argon2 may use, and pass over."""

_OTHERS: Final = (("$apr1$", "MD5"), ("$1$", "MD5"), ("{SHA}", "SHA-1"), ("$5$", "SHA-256"), ("$6$", "SHA-512"))
_ADVICE: Final = "is taken: bcrypt (htpasswd -B) or argon2"


def parse(text: str) -> dict[str, str]:
    """The hash of each user; raises ValueError. Empty lines and those that begin with ``#`` are passed over."""
    users: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, hashed = line.rstrip().partition(":")
        try:
            user = user_name(name)
            _check(hashed)
            if user in users:
                raise ValueError(f"{name!r} has a line already")
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        users[user] = hashed
    return users


def is_bcrypt(hashed: str) -> bool:
    """True for bcrypt, False for argon2, among hashes that were taken."""
    return hashed.startswith("$2")


def _check(hashed: str) -> None:
    bcrypt, argon2 = _BCRYPT.match(hashed), _ARGON2.match(hashed)
    if bcrypt is not None:
        if int(bcrypt[1]) not in _BCRYPT_COSTS:
            raise ValueError(f"a cost of bcrypt is between {_BCRYPT_COSTS[0]} and {_BCRYPT_COSTS[-1]}")
    elif argon2 is not None:
        _check_argon2(*map(int, argon2.groups()))
    else:
        kind = next((name for prefix, name in _OTHERS if hashed.startswith(prefix)), "none of those that can be told")
        raise ValueError(f"the hash is {kind}, and only what is slow to guess {_ADVICE}")


def _check_argon2(memory: int, passes: int, lanes: int) -> None:
    if not 8 * lanes <= memory <= _MOST_MEMORY or lanes < 1 or passes < 1 or memory * passes > _MOST_WORK:
        raise ValueError(f"argon2 may use up to {_MOST_MEMORY} KiB, and {_MOST_WORK} in all of its passes")
