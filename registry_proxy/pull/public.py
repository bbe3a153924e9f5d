"""Chunks for other instances: of public blobs only, whole, and never long in coming.

Whoever asks for a chunk that is not here starts an errand, which reads it the way any client's read would (joining flights, with
read-ahead and verification) and goes on when its asker has been told to come back: or a slow upstream would start anew each time.
"""

import asyncio
import hashlib
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from registry_proxy.errors import BlobUnknown, NotSoon, UpstreamUnreachable
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunk_objects import ChunkHashes
from registry_proxy.plan.chunks import Grid, Span
from registry_proxy.plan.ranges import Part
from registry_proxy.pull.blobs import Blobs, OpenBlob
from registry_proxy.pull.pieces import Piece
from registry_proxy.sources.base import BlobPlace
from registry_proxy.tiers.base import Chunk, MemoryChunk
from registry_proxy.tiers.openfiles import StoredChunk
from registry_proxy.tiers.records import Records

_SOON = 0.8
"""Seconds that an asker waits: an answer must come within one."""

_LONGEST = 120.0
"""Seconds that an errand may take."""

_MOST = 256
"""Errands at a time; each ends with a chunk in memory."""

_BACK = 1.0
"""Seconds after which an asker may come back."""

_Key = tuple[BlobPlace, int]


class PublicDoor(Protocol):
    """Knows what anybody may read (the ``access`` room)."""

    async def public(self, place: BlobPlace) -> None:
        """Return if an anonymous client may pull this blob; raises BlobUnknown or Trouble if not."""

    async def known_public(self, place: BlobPlace) -> bool:
        """True if that is known already."""


@dataclass(frozen=True, slots=True)
class ChunkObject:
    """A whole chunk; its receiver closes ``piece.chunk``. ``sha256``: of its bytes."""

    piece: Piece
    sha256: bytes


class PublicChunks:
    """Chunks of blobs that anybody may pull. ``chunk_size``: the store's."""

    def __init__(self, blobs: Blobs, door: PublicDoor, records: Records, chunk_size: int) -> None:
        self.chunk_size = chunk_size
        self._blobs = blobs
        self._door = door
        self._records = records
        self._errands: dict[_Key, asyncio.Task[Piece]] = {}

    async def chunk(self, place: BlobPlace, index: int) -> ChunkObject:
        """One chunk. Raises BlobUnknown (no such blob or chunk, or not for everybody), NotSoon, NoRoom or Trouble."""
        piece = await self._here(place, index) or await self._fetched(place, index)
        try:
            return ChunkObject(piece, await _sha256(piece.chunk))
        except BaseException:
            piece.chunk.close()
            raise

    async def hashes(self, place: BlobPlace) -> ChunkHashes:
        """The hashes of a verified blob's chunks; raises BlobUnknown if there is no such list for everybody."""
        await self._door.public(place)
        verified = await self._records.verified.get(str(place.digest))
        if verified is None or verified.chunk_size != self.chunk_size:
            raise BlobUnknown(f"{place.digest} has not been verified here")
        return ChunkHashes(verified.size, verified.chunk_size, verified.chunk_hashes)

    async def places(self, digest: Digest) -> tuple[BlobPlace, ...]:
        """The repositories where this blob was named or found, the newest first."""
        return await self._blobs.places(digest)

    async def close(self) -> None:
        """End all errands."""
        errands = list(self._errands.values())
        for errand in errands:
            errand.cancel()
        await asyncio.gather(*errands, return_exceptions=True)

    async def _here(self, place: BlobPlace, index: int) -> Piece | None:
        """The chunk, if it is known to be for everybody and lies in the store."""
        if not await self._door.known_public(place):
            return None
        blob = await self._blobs.open(place, certain=True)
        return blob.hit(self._span(blob, index))

    async def _fetched(self, place: BlobPlace, index: int) -> Piece:
        errand = self._errand(place, index)
        done, _ = await asyncio.wait({errand}, timeout=_SOON)
        if not done:
            raise NotSoon(f"chunk {index} of {place.digest} is on its way", retry_after=_BACK)
        return errand.result()

    def _errand(self, place: BlobPlace, index: int) -> asyncio.Task[Piece]:
        errand = self._errands.get((place, index))
        if errand is None:
            if len(self._errands) >= _MOST:
                raise NotSoon(f"{_MOST} chunks are on their way already", retry_after=_BACK)
            errand = asyncio.create_task(self._bring(place, index), name=f"errand {place.digest} {index}")
            self._errands[place, index] = errand
            errand.add_done_callback(lambda task: self._ended((place, index), task))
        return errand

    async def _bring(self, place: BlobPlace, index: int) -> Piece:
        """Find out whether the chunk is for everybody, and read it into memory. Raises what a read raises, or
        UpstreamUnreachable if it takes too long."""
        try:
            async with asyncio.timeout(_LONGEST):
                await self._door.public(place)
                blob = await self._blobs.open(place, certain=True)
                return await _read(blob, self._span(blob, index))
        except TimeoutError:
            raise UpstreamUnreachable(f"chunk {index} of {place.digest} did not come in {_LONGEST:g} s") from None

    def _span(self, blob: OpenBlob, index: int) -> Span:
        grid = Grid(blob.size, self.chunk_size)
        if index >= grid.count:
            raise BlobUnknown(f"{blob.digest} has {grid.count} chunks")
        return grid.span_of(index)

    def _ended(self, key: _Key, errand: asyncio.Task[Piece]) -> None:
        del self._errands[key]
        if not errand.cancelled():
            errand.exception()  # whoever was told to come back will ask again


async def _read(blob: OpenBlob, span: Span) -> Piece:
    data = bytearray()
    tier = "upstream"
    async with blob.read([Part(span)]) as reader, aclosing(reader.pieces(0)) as pieces:
        async for piece in pieces:
            tier = piece.tier
            data += piece.read()
    return Piece(MemoryChunk(bytes(data)), 0, len(data), tier)


async def _sha256(chunk: Chunk) -> bytes:
    if isinstance(chunk, StoredChunk):
        return chunk.sha256
    return await asyncio.to_thread(lambda: hashlib.sha256(chunk.read(0, chunk.length)).digest())
