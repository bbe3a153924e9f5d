"""Digests: the only names that content is kept under (image-spec, "Digests")."""

import hashlib
import re
from typing import Protocol

import msgspec

from registry_proxy.errors import DigestInvalid

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_EMPTY = {algorithm: hashlib.new(algorithm, usedforsecurity=False).hexdigest() for algorithm in _HEX_LENGTH}
_HEX = re.compile(r"[0-9a-f]+\Z")


class Hasher(Protocol):
    """A running hash."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """The hash of the bytes so far, in lower-case hexadecimal digits."""


class Digest(msgspec.Struct, frozen=True, cache_hash=True, gc=False):
    """A digest of a registered algorithm: ``sha256`` or ``sha512``, the hash in lower-case hexadecimal digits."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> "Digest":
        """Parse ``algorithm:hex``; raises DigestInvalid."""
        algorithm, colon, digits = text.partition(":")
        if not colon or _HEX_LENGTH.get(algorithm) != len(digits) or not _HEX.match(digits):
            raise DigestInvalid(f"not a sha256 or sha512 digest: {text[:160]!r}")
        return cls(algorithm, digits)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> "Digest":
        """The digest of these bytes."""
        return cls(algorithm, hashlib.new(algorithm, data, usedforsecurity=False).hexdigest())

    @property
    def is_empty(self) -> bool:
        """True if it is the digest of no bytes at all."""
        return self.hex == _EMPTY[self.algorithm]

    def hasher(self) -> Hasher:
        """A fresh hash of this digest's algorithm."""
        return hashlib.new(self.algorithm, usedforsecurity=False)

    def matches(self, data: bytes) -> bool:
        """True if these bytes hash to this digest."""
        return Digest.of(data, self.algorithm) == self

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
