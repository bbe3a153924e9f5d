"""One client's read of a blob: pieces in the order asked, each from the store or from the flight that brings it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Self

from registry_proxy.errors import ContentCorrupt, TierFailed
from registry_proxy.plan.chunks import Grid, Slice, Span
from registry_proxy.plan.ranges import Part
from registry_proxy.plan.readahead import ahead
from registry_proxy.pull.assay import Assay
from registry_proxy.pull.flights import BlobFlights
from registry_proxy.pull.landing import feed, sha256_of
from registry_proxy.pull.pieces import Piece
from registry_proxy.pull.wish import Wish
from registry_proxy.tiers.base import Chunk, MemoryChunk
from registry_proxy.tiers.openfiles import StoredChunk
from registry_proxy.tiers.stack import TierBlob

_VERSIONS = 2
"""Versions of a chunk that are had before a reader of a range is refused: the first one, and one from elsewhere."""

_GRACE = 1.0
"""Seconds that a read waits for its first byte before headers are sent all the same: what fails that early becomes a status
instead of a cut connection. SOCI waits 3 s for headers."""


class Reader:
    """Reads the parts of one answer. Use as an async context manager; leaving it gives up what was still wanted."""

    def __init__(
        self,
        flights: BlobFlights,
        parts: Sequence[Part],
        read_ahead: int,
        sent: Mapping[int, bytes] | None = None,
        *,
        own: bool = False,
    ) -> None:
        self._flights = flights
        self._parts = parts
        self._read_ahead = read_ahead
        self._sent = sent
        grid = flights.grid
        self._wish = Wish(_chunks(grid, parts), partial=_partial(grid, parts))
        self._last_use = _last_uses(grid, parts)
        self._last: tuple[int, Chunk, str] | None = None
        self._aside: TierBlob | None = None
        self._joined = False
        self._in_order = all(one.span.start <= two.span.start for one, two in pairwise(parts))
        self._line = 0
        self._own = own
        self._taken: list[tuple[int, int]] = []  # chunks of an answer in part, and how many had been found wrong before

    async def __aenter__(self) -> Self:
        grid, flights = self._flights.grid, self._flights
        if not self._wish.chunks:
            return self
        if len(self._parts) == 1 and not self._own:
            self._follow(self._parts[0])
        try:
            if self._sent is None:  # the beginning of a whole answer cannot be hashed any more
                self._aside = await flights.aside(self._wish.chunks)
            if self._aside is None:
                first = grid.touched(self._parts[0].span)[0]
                self._join(first)
                await self._first(first)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if self._aside is not None:
            self._aside.close()
        if self._joined:
            self._flights.leave(self._wish)
            self._linger()

    async def pieces(self, part: int) -> AsyncGenerator[Piece, None]:
        """The pieces of one part, in order: exactly its bytes, or Trouble (NoRoom, ContentCorrupt) is raised.

        The last piece of a part is held back until the blob, if it is complete or the part is all of it, is known to be
        right (docs/architecture.md, I4).
        """
        asked, grid = self._parts[part], self._flights.grid
        if not self._in_order:
            self._wish.turn = grid.touched(asked.span)[-1] + 1
        whole = len(asked.span) == grid.size or self._sent is not None
        assay = Assay(self._aside, self._flights.landing.digest) if whole and self._aside is not None else None
        sums = dict(self._sent or {}) if whole and assay is None and not self._flights.landing.verified else None
        for piece in grid.slices(asked.span):
            if asked.open_ended and self._joined:
                self._widen(piece.index)
            found = await self._piece(piece)
            if assay is not None:
                await assay.take(found)
            if sums is not None:
                sums[piece.index] = await sha256_of(found.chunk)
            if not whole:
                self._note(piece.index)
            if piece.index * grid.chunk + piece.stop == asked.span.stop:
                await (self._settle(sums) if assay is None else assay.settle())
            yield found
            if len(self._parts) == 1:
                self._flights.advance(self._wish, piece.index)
            elif self._last_use[piece.index] == part:
                self._flights.finish(self._wish, piece.index)

    async def _piece(self, piece: Slice) -> Piece:
        """One piece: from the store, else from a tier beside it as long as that works, else from a flight."""
        if self._aside is not None and not self._joined and not self._take(piece.index):
            base = piece.index * self._flights.grid.chunk
            try:
                data = await self._aside.read(Span(base + piece.start, base + piece.stop))
            except TierFailed:
                self._join(piece.index)
            else:
                return Piece(MemoryChunk(data), 0, len(data), self._aside.tier)
        chunk, tier = await self._compared(piece.index)
        return Piece(chunk, piece.start, piece.stop, tier)

    async def _compared(self, index: int) -> tuple[Chunk, str]:
        """The chunk, once it has been compared with the blob's TOC if that is to come first. Raises ContentCorrupt."""
        inspection = self._flights.inspection
        for _ in range(_VERSIONS):
            chunk, tier = await self._chunk(index)
            if inspection is None or self._own or not self._wish.partial or not self._flights.held_back:
                return chunk, tier
            await inspection.settled(index)
            if not isinstance(chunk, StoredChunk) or chunk.unchanged():
                return chunk, tier
            self._close()
        raise ContentCorrupt(f"chunk {index} of {self._flights.landing.digest} came wrong {_VERSIONS} times")

    def _note(self, index: int) -> None:
        """Remember what goes out before all of the blob is known to be right."""
        inspection = self._flights.inspection
        if inspection is not None and not inspection.over:
            self._taken.append((index, inspection.evictions))

    def _join(self, index: int) -> None:
        """From chunk ``index`` on, flights bring what is not in the store."""
        self._joined = True
        if self._aside is not None:
            wish, grid = self._wish, self._flights.grid
            if len(self._parts) == 1:
                wish.advance(index)
            rest = range(index, min(index + 2, grid.count)) if self._parts[0].open_ended else wish.rest()
            self._wish = Wish(rest, partial=wish.partial)
        self._flights.join(self._wish)

    async def _first(self, index: int) -> None:
        """Wait a moment for the first chunk; after that, headers go out unless it is too far away. Raises Trouble, NotSoon, NoRoom."""
        if self._take(index):
            return
        self._flights.check_patience(index, self._wish)
        task = asyncio.ensure_future(self._flights.chunk(index, self._wish))
        try:
            await asyncio.wait({task}, timeout=_GRACE)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            if not task.cancelled() and task.exception() is None:
                self._last = (index, *task.result())
        if not task.cancelled():
            task.result()
            return
        self._flights.check_patience(index, self._wish)

    async def _chunk(self, index: int) -> tuple[Chunk, str]:
        """The chunk, open until the next one is asked for: neighbouring parts often lie in the same one."""
        if not self._take(index):
            self._last = (index, *await self._flights.chunk(index, self._wish))
        assert self._last is not None  # noqa: S101
        return self._last[1], self._last[2]

    def _take(self, index: int) -> bool:
        """Have the chunk open, if that takes no waiting."""
        if self._last is None or self._last[0] != index:
            self._close()
            here = self._flights.at_hand(index)
            self._last = None if here is None else (index, here, "store")
        return self._last is not None

    def _close(self) -> None:
        if self._last is not None:
            self._last[1].close()
            self._last = None

    async def _settle(self, sums: dict[int, bytes] | None) -> None:
        """The end of an answer may go out; ``sums``: of the chunks of a whole answer, whose blob was not verified when it began.

        What was sent must be what was verified: a chunk may have been dropped and fetched again meanwhile. Raises ContentCorrupt.
        """
        landing, inspection = self._flights.landing, self._flights.inspection
        if not landing.verified:
            await landing.verify_stored()
        if inspection is not None and any(inspection.wrong_since(before, index) for index, before in self._taken):
            raise ContentCorrupt(f"some of what was sent of {landing.digest} was found to be wrong meanwhile")
        if sums is None:
            return
        if not landing.verified:
            await self._hash_again(sums)
        elif not landing.are_right(sums):
            raise ContentCorrupt(f"some of what was sent of {landing.digest} was found to be wrong meanwhile")

    async def _hash_again(self, sums: dict[int, bytes]) -> None:
        """Chunks were evicted while the answer was under way: read all of them once more, and hash. Raises ContentCorrupt."""
        grid, landing = self._flights.grid, self._flights.landing
        hasher, wish = landing.digest.hasher(), Wish(range(grid.count))
        self._flights.join(wish)
        try:
            for index in wish.chunks:
                chunk, _ = await self._flights.chunk(index, wish)
                with contextlib.closing(chunk):
                    if await sha256_of(chunk) != sums[index]:
                        raise ContentCorrupt(f"chunk {index} of {landing.digest} came in two versions")
                    await asyncio.to_thread(feed, hasher, chunk)
                self._flights.advance(wish, index + 1)
        finally:
            self._flights.leave(wish)
        if hasher.hexdigest() != landing.digest.hex:
            await landing.reject()
        await landing.accept(b"".join(sums[index] for index in range(grid.count)))

    # --- read-ahead --------------------------------------------------------------------------------------------------

    def _follow(self, part: Part) -> None:
        """Note how long this client, or one like it, has been reading in one line."""
        grid = self._flights.grid
        self._line = self._flights.trail.follow(part.span) if not part.open_ended else 0
        if part.open_ended:
            self._wish.chunks = self._wish.chunks[:2]
        elif len(part.span) < grid.size:
            self._wish.extend(min(self._wish.chunks[-1] + 1 + self._ahead(), grid.count))

    def _ahead(self) -> int:
        return ahead(self._line, self._flights.grid.chunk, self._read_ahead)

    def _widen(self, index: int) -> None:
        """An open end is not "fetch to the end": the window doubles while the client goes on reading."""
        grid, wish = self._flights.grid, self._wish
        read = (index - wish.chunks[0] + 1) * grid.chunk
        stop = min(index + 1 + max(1, ahead(read, grid.chunk, self._read_ahead)), grid.count)
        wish.extend(stop)
        self._flights.pump(wish)

    def _linger(self) -> None:
        """A sequential reader of many small ranges is away between them: keep its read-ahead wanted for a moment."""
        if self._line and self._ahead():
            self._flights.linger(self._wish)


async def own_bytes(flights: BlobFlights, span: Span) -> bytes:
    """Bytes of a blob for the proxy itself: never held back, and not taken for a client's line of reading."""
    data = bytearray()
    parts = [Part(span)]
    async with Reader(flights, parts, 0, own=True) as reader, contextlib.aclosing(reader.pieces(0)) as pieces:
        async for piece in pieces:
            data += await asyncio.to_thread(piece.read)
    return bytes(data)


def _chunks(grid: Grid, parts: Sequence[Part]) -> Sequence[int]:
    if len(parts) == 1:
        return grid.touched(parts[0].span)
    return sorted({index for part in parts for index in grid.touched(part.span)})


def _last_uses(grid: Grid, parts: Sequence[Part]) -> dict[int, int]:
    """For an answer of several parts, the last part that each chunk is read for."""
    if len(parts) == 1:
        return {}
    return {index: number for number, part in enumerate(parts) for index in grid.touched(part.span)}


def _partial(grid: Grid, parts: Sequence[Part]) -> bool:
    return len(parts) > 1 or parts[0].span != Span(0, grid.size)
