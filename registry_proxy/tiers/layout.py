"""Where things lie in the store's directory: ``chunks/<2 hex>/<hex>/<group>/<index>``.

A blob's directory is named by its digest's hexadecimal digits, with the algorithm in front unless it is sha256. A group is 64
chunks of one blob, the unit of accounts and eviction. A file's name is the chunk's index in the blob, ``.lz4`` behind it where
the chunk lies compressed. Whatever is named otherwise is not ours and never read.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from registry_proxy.errors import DigestInvalid
from registry_proxy.oci.digest import Digest

GROUP: Final = 64
"""Chunks in a group."""

LZ4_SUFFIX: Final = ".lz4"

_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,11})\Z")


class GroupKey(NamedTuple):
    """Names a group: 64 chunks of one blob, ``number`` from 0."""

    digest: Digest
    number: int

    @classmethod
    def of(cls, digest: Digest, index: int) -> "GroupKey":
        """The group that a chunk belongs to."""
        return cls(digest, index // GROUP)


@dataclass(frozen=True, slots=True)
class ChunkName:
    """What a chunk file's name says."""

    index: int
    compressed: bool


class Layout:
    """The paths below the store's directory, as text: the look-up of a chunk makes one for every file it opens."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.chunks = root / "chunks"
        self.temporary = root / "tmp"
        self.records = root / "records"
        self.lock = root / "lock"
        self.format = root / "format"
        self.state = root / "state"
        self._chunks = str(self.chunks)

    def blob(self, digest: Digest) -> str:
        """The directory of a blob's groups."""
        return f"{self._chunks}/{digest.hex[:2]}/{blob_name(digest)}"

    def group(self, key: GroupKey) -> str:
        """The directory of a group's chunks."""
        return f"{self.blob(key.digest)}/{key.number}"

    def chunk(self, digest: Digest, index: int) -> str:
        """The file of a chunk that lies as it is."""
        return f"{self.blob(digest)}/{index // GROUP}/{index}"


def blob_name(digest: Digest) -> str:
    """The name of a blob's directory."""
    return digest.hex if digest.algorithm == "sha256" else f"{digest.algorithm}-{digest.hex}"


def parse_blob_name(name: str, parent: str) -> Digest | None:
    """The digest a blob directory is named for; None if the name is not one or does not belong below ``parent``."""
    algorithm, dash, digits = name.rpartition("-")
    try:
        digest = Digest.parse(f"{algorithm if dash else 'sha256'}:{digits}")
    except DigestInvalid:
        return None
    return digest if blob_name(digest) == name and digits.startswith(parent) and len(parent) == 2 else None


def parse_group_name(name: str) -> int | None:
    """The number of the group a directory is named for; None if the name is not one."""
    return int(name) if _NUMBER.match(name) else None


def parse_chunk_name(name: str, group: int) -> ChunkName | None:
    """The chunk a file is named for; None if the name is not one or belongs to another group."""
    digits = name.removesuffix(LZ4_SUFFIX)
    if not _NUMBER.match(digits) or int(digits) // GROUP != group:
        return None
    return ChunkName(int(digits), digits != name)
