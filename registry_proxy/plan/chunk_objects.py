"""Chunks as small HTTP objects that any Squid can keep: how they are named, described and checked.

One URL per content, ``/chunks/v1/sha256/<hex>/<chunk size>/<index>``, and nothing in the request or the answer that would keep a
cache from keeping it. Where the blob lives travels in headers that are not part of the cache's key.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

import msgspec

from registry_proxy.errors import NoSuchEndpoint
from registry_proxy.oci.digest import Digest

ROOT: Final = "/chunks/"
NAMESPACE: Final = "OCI-Namespace"
REPOSITORY: Final = "OCI-Repository"
FOREVER: Final = "public, max-age=31536000, immutable"
_NUMBER = re.compile(r"[0-9]{1,12}\Z")
_REPR_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):")


@dataclass(frozen=True, slots=True)
class ChunkName:
    """One chunk object, or (``index`` None) the list of the hashes of all chunks of a verified blob."""

    digest: Digest
    chunk_size: int
    index: int | None

    @classmethod
    def parse(cls, path: str) -> "ChunkName":
        """The name that a path stands for; raises NoSuchEndpoint and DigestInvalid."""
        match path.split("/"):
            case ["", "chunks", "v1", algorithm, digits, size, last] if _NUMBER.match(size):
                digest = Digest.parse(f"{algorithm}:{digits}")
                if last == "hashes":
                    return cls(digest, int(size), None)
                if _NUMBER.match(last):
                    return cls(digest, int(size), int(last))
        raise NoSuchEndpoint(f"nothing is at {path[:160]!r}")

    @property
    def path(self) -> str:
        """The path of its URL."""
        last = "hashes" if self.index is None else self.index
        return f"{ROOT}v1/{self.digest.algorithm}/{self.digest.hex}/{self.chunk_size}/{last}"


class ChunkHashes(msgspec.Struct, frozen=True):
    """The hashes of a verified blob's chunks. ``size``: bytes of the blob; ``chunk_hashes``: 32 bytes of sha-256 each, in order."""

    size: int
    chunk_size: int
    chunk_hashes: bytes

    def fits(self, size: int, chunk_size: int) -> bool:
        """True if this is the list of a blob of that size, cut that way."""
        return (self.size, self.chunk_size) == (size, chunk_size) and len(self.chunk_hashes) == 32 * -(
            -size // chunk_size
        )

    def of(self, index: int) -> bytes:
        """The sha-256 of one chunk."""
        return self.chunk_hashes[32 * index : 32 * index + 32]


def repr_digest(sha256: bytes) -> str:
    """The value of Repr-Digest (RFC 9530 §3)."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


def parse_repr_digest(text: str) -> bytes | None:
    """The sha-256 in a Repr-Digest; None if there is none."""
    match = _REPR_DIGEST.search(text)
    try:
        return base64.b64decode(match[1], validate=True) if match else None
    except binascii.Error:
        return None


def via_names(via: str) -> list[str]:
    """Who has passed a message on (RFC 9110 §7.6.3), first to last."""
    hops = [hop.split() for hop in via.split(",")]
    return [hop[1] for hop in hops if len(hop) > 1]
