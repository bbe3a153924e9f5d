"""The users of the htpasswd file, and whether somebody is who they say."""

import secrets
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

import bcrypt
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error

from registry_proxy.plan import htpasswd
from registry_proxy.plan.basic import Basic
from registry_proxy.plan.users import User

_BCRYPT_READS: Final = 72
"""Bytes of a password that bcrypt looks at; more are passed over, as htpasswd passed over them."""

_argon2 = PasswordHasher()


class Users:
    """Who is known, by the hash of a password. ``hashes``: that of each."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self.hashes = hashes
        self._all = tuple(hashes.values())
        self._secret = secrets.token_bytes(32)

    def check(self, claimed: Basic) -> User | None:
        """Whose name and password these are, if anybody's. Blocks, for a name that nobody has as long as for one that somebody has:
        its password is compared with one of the others' hashes, always the same one, whatever comes of it."""
        if not self._all:
            return None
        own = self.hashes.get(claimed.user)
        matches = _matches(own or self._stand_in(claimed.user), claimed.password)
        return User(claimed.user) if own is not None and matches else None

    def _stand_in(self, name: str) -> str:
        drawn = blake2b(name.encode(), key=self._secret, digest_size=8).digest()
        return self._all[int.from_bytes(drawn) % len(self._all)]


def _matches(hashed: str, password: str) -> bool:
    try:
        if htpasswd.is_bcrypt(hashed):
            return bcrypt.checkpw(password.encode()[:_BCRYPT_READS], hashed.encode())
        return _argon2.verify(hashed, password)
    except (Argon2Error, ValueError):  # the first is also how argon2 says no
        return False
