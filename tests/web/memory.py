"""A heart in memory: manifests, blobs and lists as dictionaries, with switches for what can go wrong."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Self

from registry_proxy.errors import BlobUnknown, ManifestUnknown, NameUnknown, RegistryProxyError
from registry_proxy.net.hops import HOPS
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Reference, Repository, SourceHost
from registry_proxy.plan.chunk_objects import ChunkHashes
from registry_proxy.plan.chunks import Grid, Span
from registry_proxy.plan.ranges import Part
from registry_proxy.pull.pieces import Piece
from registry_proxy.sources.base import BlobPlace


@dataclass(frozen=True)
class ServedManifest:
    digest: Digest
    media_type: str
    body: bytes
    stale: str | None = None
    tier: str = "store"


@dataclass(frozen=True)
class NamePage:
    names: tuple[str, ...]
    more: bool


@dataclass
class FileChunk:
    """A chunk in a file; ``closed`` counts how often it was given back."""

    length: int
    file: BinaryIO | None
    closed: int = 0
    broken: bool = False
    touched: bool = False

    def read(self, start: int, stop: int) -> bytes:
        assert self.file is not None
        if self.broken:
            raise OSError(5, "Input/output error")
        self.file.seek(start)
        return self.file.read(stop - start)

    def same_bytes(self) -> bool:
        return not self.touched

    def close(self) -> None:
        self.closed += 1


@dataclass
class MemoryChunk:
    data: bytes
    file: BinaryIO | None = None
    closed: int = 0

    @property
    def length(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        return self.data[start:stop]

    def same_bytes(self) -> bool:
        return True

    def close(self) -> None:
        self.closed += 1


@dataclass
class Faults:
    """``early``: raised when a read is entered; ``at_chunk``: raised before that chunk of a read; ``gate``: waited for there."""

    early: RegistryProxyError | None = None
    at_chunk: int | None = None
    error: BaseException | None = None
    gate: asyncio.Event | None = None
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class MemoryBlob:
    """A blob as chunks of ``grid``; ``hits``: single-chunk spans are at hand."""

    digest: Digest
    grid: Grid
    chunks: list[Any]
    faults: Faults
    hits: bool = True
    asked: list[tuple[Part, ...]] = field(default_factory=list)
    lent: list[Any] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.grid.size

    def hit(self, span: Span) -> Piece | None:
        touched = self.grid.touched(span)
        if not self.hits or len(touched) != 1:
            return None
        base = touched[0] * self.grid.chunk
        self.lent.append(self.chunks[touched[0]])
        return Piece(self.chunks[touched[0]], span.start - base, span.stop - base, "store")

    def read(self, parts: Sequence[Part]) -> "MemoryReader":
        self.asked.append(tuple(parts))
        return MemoryReader(self, parts)


@dataclass
class MemoryReader:
    blob: MemoryBlob
    parts: Sequence[Part]

    async def __aenter__(self) -> Self:
        if self.blob.faults.early:
            raise self.blob.faults.early
        return self

    async def __aexit__(self, *_: object) -> None:
        self.blob.faults.left.set()

    async def pieces(self, part: int) -> AsyncGenerator[Piece, None]:
        faults = self.blob.faults
        for piece in self.blob.grid.slices(self.parts[part].span):
            if piece.index == faults.at_chunk:
                faults.waiting.set()
                if faults.gate:
                    await faults.gate.wait()
                if faults.error:
                    raise faults.error
            yield Piece(self.blob.chunks[piece.index], piece.start, piece.stop, "upstream")


@dataclass(frozen=True)
class MemoryObject:
    piece: Piece
    sha256: bytes


@dataclass
class MemoryHeart:
    """All services at once. ``calls``: what was asked, so that tests can see what never was; ``called``: anything was."""

    blobs: dict[tuple[str, str, str], MemoryBlob] = field(default_factory=dict)
    facts: dict[str, MemoryBlob] = field(default_factory=dict)
    manifests: dict[tuple[str, str, str], ServedManifest] = field(default_factory=dict)
    tag_names: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    repositories: dict[str, list[str]] = field(default_factory=dict)
    referring: dict[tuple[str, str, str], list[dict[str, Any]]] = field(default_factory=dict)
    error: RegistryProxyError | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    chunk_size: int = 1 << 20
    lists: dict[str, ChunkHashes] = field(default_factory=dict)

    def _call(self, *what: object) -> None:
        self.calls.append(what)
        self.called.set()
        if self.error:
            raise self.error

    async def open(self, place: BlobPlace, *, certain: bool = False) -> MemoryBlob:
        self._call("open", place.upstream, place.repository, str(place.digest), certain)
        try:
            return self.blobs[place.upstream, place.repository, str(place.digest)]
        except KeyError:
            raise BlobUnknown(f"no blob {place.digest}") from None

    async def open_anywhere(self, digest: Digest, *, certain: bool = False) -> MemoryBlob:
        self._call("open_anywhere", str(digest), certain)
        try:
            return self.facts[str(digest)]
        except KeyError:
            raise BlobUnknown(f"no place is known for {digest}") from None

    async def chunk(self, place: BlobPlace, index: int) -> MemoryObject:
        self._call("chunk", place.upstream, place.repository, str(place.digest), index, HOPS.get())
        blob = self.blobs.get((place.upstream, place.repository, str(place.digest)))
        if blob is None or index >= len(blob.chunks):
            raise BlobUnknown(f"no chunk {index} of {place.digest} for everybody")
        chunk = blob.chunks[index]
        blob.lent.append(chunk)
        sha256 = hashlib.sha256(chunk.read(0, chunk.length)).digest()
        return MemoryObject(Piece(chunk, 0, chunk.length, "store"), sha256)

    async def hashes(self, place: BlobPlace) -> ChunkHashes:
        self._call("hashes", place.upstream, place.repository, str(place.digest))
        if str(place.digest) not in self.lists:
            raise BlobUnknown(f"{place.digest} has not been verified here")
        return self.lists[str(place.digest)]

    async def places(self, digest: Digest) -> tuple[BlobPlace, ...]:
        return ()

    async def get(
        self, upstream: SourceHost, repository: Repository, reference: Reference, *, no_cache: bool = False
    ) -> ServedManifest:
        self._call("get", upstream, repository, str(reference), no_cache)
        try:
            return self.manifests[upstream, repository, str(reference)]
        except KeyError:
            raise ManifestUnknown(f"no manifest {reference}") from None

    def at_hand(self, upstream: SourceHost, repository: Repository, reference: Reference) -> ServedManifest | None:
        return None  # every call is to be seen

    def opened(self, place: BlobPlace) -> MemoryBlob | None:
        return None

    async def tags(self, upstream: SourceHost, repository: Repository, n: int | None, last: str | None) -> NamePage:
        self._call("tags", upstream, repository, n, last)
        if (upstream, repository) not in self.tag_names:
            raise NameUnknown(f"no repository {repository}")
        return _page(self.tag_names[upstream, repository], n, last)

    async def catalog(self, upstream: SourceHost, n: int | None, last: str | None) -> NamePage:
        self._call("catalog", upstream, n, last)
        return _page(self.repositories[upstream], n, last)

    async def referrers(
        self, upstream: SourceHost, repository: Repository, digest: Digest, artifact_type: str | None = None
    ) -> list[dict[str, Any]]:
        self._call("referrers", upstream, repository, str(digest))
        return self.referring.get((upstream, repository, str(digest)), [])


def _page(names: list[str], n: int | None, last: str | None) -> NamePage:
    rest = sorted(name for name in names if last is None or name > last)
    shown = rest if n is None else rest[:n]
    return NamePage(tuple(shown), len(shown) < len(rest) and n != 0)


def memory_blob(data: bytes, *, chunk: int = 1 << 20, hits: bool = True) -> MemoryBlob:
    """A blob whose chunks lie in memory."""
    grid = Grid(len(data), chunk)
    chunks = [MemoryChunk(data[span.start : span.stop]) for span in map(grid.span_of, range(grid.count))]
    return MemoryBlob(Digest.of(data), grid, chunks, Faults(), hits)
