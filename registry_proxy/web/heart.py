"""What the face needs of the heart: the shapes of ``pull``'s services, so that either side can be tested without the other."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Reference, Repository, SourceHost
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.ranges import Part
from registry_proxy.pull.pieces import Piece
from registry_proxy.sources.base import BlobPlace


class ServedManifest(Protocol):
    """A manifest. ``stale``: why an old one is served, for a person, or None; ``tier``: "store" or "upstream"."""

    @property
    def digest(self) -> Digest:
        """Its digest."""

    @property
    def media_type(self) -> str:
        """Its media type."""

    @property
    def body(self) -> bytes:
        """Its bytes as received."""

    @property
    def stale(self) -> str | None:
        """Why an old one is served."""

    @property
    def tier(self) -> str:
        """Where it came from."""


class Manifests(Protocol):
    """Manifests by tag or digest."""

    async def get(
        self, upstream: SourceHost, repository: Repository, reference: Reference, *, no_cache: bool = False
    ) -> ServedManifest:
        """The manifest; ``no_cache``: ask upstream however fresh the tag is. Raises ManifestUnknown, Denied, Trouble."""

    def at_hand(self, upstream: SourceHost, repository: Repository, reference: Reference) -> ServedManifest | None:
        """The same, if that takes no waiting and no asking."""


class NamePage(Protocol):
    """One page of tags or repositories. ``more``: there are names after the last of these."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the registry's order."""

    @property
    def more(self) -> bool:
        """True if there are names after the last of these."""


class Discovery(Protocol):
    """Lists: tags, referrers, repositories."""

    async def tags(self, upstream: SourceHost, repository: Repository, n: int | None, last: str | None) -> NamePage:
        """At most ``n`` tags after ``last``. Raises NameUnknown, Denied, Trouble."""

    async def referrers(
        self, upstream: SourceHost, repository: Repository, digest: Digest, artifact_type: str | None = None
    ) -> Sequence[dict[str, Any]]:
        """The descriptors of all manifests that refer to this one; none if there are none. ``artifact_type``: the one that
        matters, others may be left out. Raises Denied, Trouble."""

    async def catalog(self, upstream: SourceHost, n: int | None, last: str | None) -> NamePage:
        """At most ``n`` repositories after ``last``. Raises CatalogDisabled, Denied, Trouble."""


class Reader(Protocol):
    """The parts asked for, on their way."""

    def pieces(self, part: int) -> AsyncGenerator[Piece, None]:
        """The pieces of one part in order: exactly its bytes, or Trouble is raised."""


class OpenBlob(Protocol):
    """A blob whose size is known."""

    @property
    def digest(self) -> Digest:
        """Its digest."""

    @property
    def size(self) -> int:
        """Its bytes."""

    def hit(self, span: Span) -> Piece | None:
        """The span, if it lies in one chunk that can be opened right now; the caller closes that chunk."""

    def read(self, parts: Sequence[Part]) -> AbstractAsyncContextManager[Reader]:
        """A reader of these parts. Entering raises Trouble, NotSoon or NoRoom while that can still be a status."""


class Blobs(Protocol):
    """Blobs by digest."""

    async def open(self, place: BlobPlace, *, certain: bool = False) -> OpenBlob:
        """The blob of that repository. ``certain``: only if the repository itself has said that it has it (an answer without
        a body cannot fail visibly later). Raises BlobUnknown, Denied, Trouble."""

    def opened(self, place: BlobPlace) -> OpenBlob | None:
        """The same, if the repository is known to have it and that takes no waiting."""

    async def open_anywhere(self, digest: Digest, *, certain: bool = False) -> OpenBlob:
        """The blob from a place where the digest is a fact. Raises BlobUnknown where there is none, or Trouble."""
