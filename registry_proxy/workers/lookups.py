"""Manifests, lists and chunk objects as a server process has them: from the fetcher, what stays the same for a while kept at hand."""

from collections import OrderedDict
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

import msgspec

from registry_proxy.errors import Trouble
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Reference, Repository, SourceHost
from registry_proxy.plan.chunk_objects import ChunkHashes
from registry_proxy.plan.chunks import Grid
from registry_proxy.pull.pieces import Piece
from registry_proxy.pull.public import ChunkObject
from registry_proxy.sources.base import BlobPlace
from registry_proxy.tiers.base import MemoryChunk
from registry_proxy.tiers.openfiles import StoredChunk
from registry_proxy.tiers.view import StoreView
from registry_proxy.workers import calls
from registry_proxy.workers.calls import (
    Bytes,
    Descriptors,
    Found,
    GetCatalog,
    GetChunk,
    GetHashes,
    GetManifest,
    GetPlaces,
    GetReferrers,
    GetTags,
    Hashes,
    Here,
    Manifest,
    Next,
    Page,
    Places,
    Show,
    Step,
)
from registry_proxy.workers.line import Line, receive

_KEPT: Final = 8 << 20
"""Bytes of manifests that are kept at hand."""

_ENTRY: Final = 512
"""Bytes that a kept manifest takes beside its own."""

_TAG_FOR: Final = 1.0
"""Seconds in which a tag is not asked for again, however fresh: what one process has been told, all know so much later."""

_NEXT: Final = calls.pack(Next())
_SHOW: Final = calls.pack(Show())

_Key = tuple[SourceHost, Repository, Reference]


class RemoteManifests:
    """Manifests by tag or digest."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._kept: OrderedDict[_Key, tuple[Manifest, float]] = OrderedDict()
        self._bytes = 0
        line.renewed.append(self._forget)

    async def get(
        self, upstream: SourceHost, repository: Repository, reference: Reference, *, no_cache: bool = False
    ) -> Manifest:
        """The manifest; ``no_cache``: ask upstream however fresh the tag is. Raises ManifestUnknown, Denied, Trouble."""
        key = upstream, repository, reference
        kept = None if no_cache else self.at_hand(*key)
        if kept is not None:
            return kept
        manifest = await self._line.ask(GetManifest(*key, no_cache), Manifest)
        self._keep(key, manifest)
        return manifest

    def at_hand(self, upstream: SourceHost, repository: Repository, reference: Reference) -> Manifest | None:
        """The manifest, if it is kept and good."""
        key = upstream, repository, reference
        kept = self._kept.get(key)
        if kept is None or monotonic() >= kept[1]:
            return None
        self._kept.move_to_end(key)
        return kept[0]

    def _keep(self, key: _Key, manifest: Manifest) -> None:
        good_for = manifest.good_for if isinstance(key[2], Digest) else min(manifest.good_for, _TAG_FOR)
        before = self._kept.pop(key, None)
        if before is not None:
            self._bytes -= len(before[0].body) + _ENTRY
        if good_for > 0:
            self._kept[key] = msgspec.structs.replace(manifest, tier="store"), monotonic() + good_for
            self._bytes += len(manifest.body) + _ENTRY
        while self._bytes > _KEPT:
            _, (oldest, _) = self._kept.popitem(last=False)
            self._bytes -= len(oldest.body) + _ENTRY

    def _forget(self) -> None:
        self._kept.clear()
        self._bytes = 0


class RemoteDiscovery:
    """Lists: tags, referrers, repositories."""

    def __init__(self, line: Line) -> None:
        self._line = line

    async def tags(self, upstream: SourceHost, repository: Repository, n: int | None, last: str | None) -> Page:
        """At most ``n`` tags after ``last``. Raises NameUnknown, Denied, Trouble."""
        return await self._line.ask(GetTags(upstream, repository, n, last), Page)

    async def catalog(self, upstream: SourceHost, n: int | None, last: str | None) -> Page:
        """At most ``n`` repositories after ``last``. Raises CatalogDisabled, Denied, Trouble."""
        return await self._line.ask(GetCatalog(upstream, n, last), Page)

    async def referrers(
        self, upstream: SourceHost, repository: Repository, digest: Digest, artifact_type: str | None = None
    ) -> Sequence[dict[str, Any]]:
        """The descriptors of all manifests that refer to this one. Raises Denied, Trouble."""
        found = await self._line.ask(GetReferrers(upstream, repository, digest, artifact_type), Descriptors)
        return msgspec.json.decode(found.json, type=list[dict[str, Any]])


class RemoteChunks:
    """Chunks of blobs that anybody may pull: asked of the fetcher each time, and opened here."""

    def __init__(self, line: Line, view: StoreView) -> None:
        self.chunk_size = view.chunk_size
        self._line = line
        self._view = view

    async def chunk(self, place: BlobPlace, index: int) -> ChunkObject:
        """One chunk, within a second. Raises BlobUnknown, NotSoon, NoRoom or Trouble."""
        wire, found = await self._line.begin(GetChunk(place, index), Found)
        chunk: StoredChunk | None = None
        try:
            if isinstance(found, Here):
                chunk = self._opened(place.digest, found)
                if chunk is None:
                    wire.send(_SHOW)
                    found = await receive(wire, Bytes)
            wire.send(_NEXT)
            await receive(wire, Step)
        except BaseException:
            self._line.drop(wire)
            if chunk is not None:
                chunk.close()
            raise
        self._line.keep(wire)
        return _object(chunk, found)

    async def hashes(self, place: BlobPlace) -> ChunkHashes:
        """The hashes of a verified blob's chunks; raises BlobUnknown."""
        return (await self._line.ask(GetHashes(place), Hashes)).hashes

    async def places(self, digest: Digest) -> Sequence[BlobPlace]:
        """The repositories where this blob was named or found, the newest first."""
        return (await self._line.ask(GetPlaces(digest), Places)).places

    def _opened(self, digest: Digest, found: Here) -> StoredChunk | None:
        grid = Grid(found.index * self.chunk_size + found.stop, self.chunk_size)
        return self._view.open_chunk(digest, grid, found.index, found.identity)


def _object(chunk: StoredChunk | None, found: Found) -> ChunkObject:
    """A whole chunk: the open file, or the bytes that came."""
    if isinstance(found, Here) and chunk is not None:
        return ChunkObject(Piece(chunk, 0, found.stop, found.tier), found.sha256)
    if isinstance(found, Bytes):
        return ChunkObject(Piece(MemoryChunk(found.data), 0, len(found.data), found.tier), found.sha256)
    raise Trouble("the fetcher named a chunk that it did not send")
