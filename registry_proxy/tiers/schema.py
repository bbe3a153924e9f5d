"""What the records hold: one struct per table, and how keys are spelt.

Fields are only ever added, with defaults; a record that cannot be read as its struct is a miss.
"""

import msgspec

from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost


class TagRecord(msgspec.Struct, frozen=True):
    """What a tag pointed to when the upstream was last asked. ``checked_at``: seconds since the epoch."""

    digest: str
    media_type: str
    checked_at: float


class ManifestRecord(msgspec.Struct, frozen=True):
    """A manifest as it was received."""

    body: bytes
    media_type: str
    digest: str


class Fact(msgspec.Struct, frozen=True):
    """A repository answered for this blob itself. ``size``: bytes."""

    size: int


class Hint(msgspec.Struct, frozen=True):
    """A manifest claims this blob. ``size``: bytes."""

    size: int


class TocHint(msgspec.Struct, frozen=True, omit_defaults=True):
    """What manifests of a repository say about the table of contents of a layer: the annotations that lead to its own, or the zTOC
    (``ztoc``: its digest; ``ztoc_size``: bytes) that a SOCI index names for it."""

    annotations: dict[str, str] = {}
    ztoc: str = ""
    ztoc_size: int = 0


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A repository where a digest is a fact."""

    upstream: str
    repository: str


class Places(msgspec.Struct, frozen=True):
    """The repositories where a digest is a fact, newest first."""

    places: tuple[Place, ...] = ()


class Sibling(msgspec.Struct, frozen=True, array_like=True):
    """A layer named by the same manifest. ``size``: bytes, as claimed."""

    digest: str
    size: int


class Siblings(msgspec.Struct, frozen=True):
    """The layers of the newest image that named a blob, the blob itself among them."""

    layers: tuple[Sibling, ...] = ()


class VerifiedBlob(msgspec.Struct, frozen=True):
    """A blob that was hashed as a whole and found right. ``chunk_hashes``: 32 bytes of sha-256 per chunk, in order."""

    size: int
    chunk_size: int
    chunk_hashes: bytes

    def chunk_hash(self, index: int) -> bytes:
        """The sha-256 of one chunk."""
        return self.chunk_hashes[32 * index : 32 * index + 32]


class Public(msgspec.Struct, frozen=True):
    """An anonymous client may pull this. ``size``: bytes; ``upstream``: which has said so (empty: not known any more)."""

    size: int
    upstream: str = ""


class GroupAccount(msgspec.Struct, frozen=True, array_like=True):
    """The account of one group of chunks: bytes on disk, a bit per chunk held, last use in seconds since the epoch.

    ``spared_for``: the blob of so many ``groups`` for whose sake it is kept.
    """

    digest: str
    number: int
    bytes: int
    mask: int
    last_use: float
    spared_for: str = ""
    groups: int = 0


class AccountPage(msgspec.Struct, frozen=True):
    """The accounts of the groups whose digests start with the same two digits."""

    groups: tuple[GroupAccount, ...] = ()


def tag_key(upstream: SourceHost, repository: Repository, tag: str, asked_as: str = "") -> str:
    """The key of a tag. ``asked_as``: what is said to one is not what would be said to another."""
    return f"{asked_as}{upstream}/{repository}:{tag}"


def digest_key(upstream: SourceHost, repository: Repository, digest: Digest, asked_as: str = "") -> str:
    """The key of a digest in a repository. ``asked_as``: as for tags."""
    return f"{asked_as}{upstream}/{repository}@{digest}"
