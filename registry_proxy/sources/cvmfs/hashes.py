"""Content hashes: the names of everything in a repository but its letters.

A hash is that of the bytes *as served*: of the zlib stream where an object is compressed (cvmfs ``crypto/hash.h``).
"""

import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, cast

from registry_proxy.errors import UpstreamBroken

_LENGTH = 20
_TEXT = re.compile(r"([0-9a-f]{40})(-rmd160|-shake128)?\Z")
_FINGERPRINT = re.compile(r"((?:[0-9A-Fa-f]{2}:){19}[0-9A-Fa-f]{2})(-RMD160|-SHAKE128)?\Z", re.IGNORECASE)


class Algorithm(Enum):
    """The value is the one in a catalog row's flags."""

    SHA1 = 0
    RMD160 = 1
    SHAKE128 = 2

    @property
    def tag(self) -> str:
        """What follows the hexadecimal digits of such a hash."""
        return "" if self is Algorithm.SHA1 else f"-{self.name.lower()}"


_BY_TAG = {algorithm.tag: algorithm for algorithm in Algorithm}


class _Running(Protocol):
    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class Hashing:
    """A running hash of one algorithm."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self._shake = hashlib.shake_128(usedforsecurity=False)
        self._running = _running(algorithm)
        self.update = self._shake.update if self._running is None else self._running.update

    def result(self) -> "ContentHash":
        """The hash of the bytes so far."""
        digest = self._shake.digest(_LENGTH) if self._running is None else self._running.digest()
        return ContentHash(self._algorithm, digest)


@dataclass(frozen=True, slots=True)
class ContentHash:
    """160 bits of a hash and the algorithm that made them."""

    algorithm: Algorithm
    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != _LENGTH:
            raise ValueError(f"a content hash has {_LENGTH} bytes, not {len(self.digest)}")

    @classmethod
    def parse(cls, text: str) -> "ContentHash":
        """Parse hexadecimal digits with the algorithm's tag; raises ValueError."""
        match = _TEXT.match(text)
        if match is None:
            raise ValueError(f"not a content hash: {text[:80]!r}")
        return cls(_BY_TAG[match[2] or ""], bytes.fromhex(match[1]))

    @classmethod
    def parse_fingerprint(cls, text: str) -> "ContentHash":
        """Parse a certificate's fingerprint as whitelists write it (``AB:CD:…-SHAKE128``); raises ValueError."""
        match = _FINGERPRINT.match(text)
        if match is None:
            raise ValueError(f"not a fingerprint: {text[:80]!r}")
        return cls(_BY_TAG[(match[2] or "").lower()], bytes.fromhex(match[1].replace(":", "")))

    @classmethod
    def of(cls, data: bytes, algorithm: Algorithm) -> "ContentHash":
        """The hash of these bytes."""
        hashing = Hashing(algorithm)
        hashing.update(data)
        return hashing.result()

    def path(self, suffix: str = "") -> str:
        """Where the object lies below the repository's URL. ``suffix``: C catalog, X certificate, P chunk, none whole file."""
        text = str(self)
        return f"data/{text[:2]}/{text[2:]}{suffix}"

    def __str__(self) -> str:
        return self.digest.hex() + self.algorithm.tag


def _running(algorithm: Algorithm) -> _Running | None:
    """A fixed-length hash; None for SHAKE-128, which is asked for its length at the end."""
    match algorithm:
        case Algorithm.SHA1:
            return hashlib.sha1(usedforsecurity=False)
        case Algorithm.RMD160:
            return _ripemd160()
        case Algorithm.SHAKE128:
            return None


def _ripemd160() -> _Running:
    """OpenSSL 3.0 before 3.0.7 has RIPEMD-160 only in its legacy provider, which few systems load."""
    try:
        return hashlib.new("ripemd160", usedforsecurity=False)
    except ValueError:
        pass
    try:
        from Crypto.Hash import RIPEMD160
    except ImportError:
        raise UpstreamBroken("this OpenSSL has no RIPEMD-160: install registry-proxy[ripemd160]") from None
    return cast("_Running", RIPEMD160.new())
