"""One client's read of a blob in a server process: from the store as far as that goes, then as the fetcher names the pieces.

If the fetcher dies meanwhile, the read goes on with the next one, where it was. A whole answer of a blob that is not verified
remembers the sha-256 of what it has sent, so that its end can be held back all the same (docs/architecture.md, I4).
"""

import contextlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from registry_proxy.errors import RegistryProxyError, SizeContested, Trouble
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Grid, Slice, Span
from registry_proxy.plan.ranges import Part
from registry_proxy.pull.landing import sha256_of
from registry_proxy.pull.pieces import Piece
from registry_proxy.sources.base import BlobPlace
from registry_proxy.tiers.base import Chunk, MemoryChunk
from registry_proxy.tiers.view import StoreView
from registry_proxy.workers import calls
from registry_proxy.workers.calls import Bytes, Here, Next, Over, Read, Reading, Show, Step
from registry_proxy.workers.line import Line, receive
from registry_proxy.workers.wire import Wire, WireLost

_LIVES: Final = 8
"""Times that one read goes on with another fetcher."""

_NEXT: Final = calls.pack(Next())
_SHOW: Final = calls.pack(Show())


class Source(Protocol):
    """The blob that is read."""

    place: BlobPlace
    digest: Digest
    size: int
    certain: bool
    settled: bool
    verified: bool
    grid: Grid
    line: Line
    view: StoreView

    def learn(self, *, verified: bool) -> None:
        """What the fetcher says of it now."""

    def contested(self) -> None:
        """Its size is not what it was said to be: whoever comes next has to ask anew."""


class RemoteReader:
    """Reads the parts of one answer. Use as an async context manager; leaving it gives up what was still wanted."""

    def __init__(self, blob: Source, parts: Sequence[Part]) -> None:
        self._blob = blob
        self._parts = parts
        whole = any(len(part.span) == blob.size for part in parts)
        self._sums: dict[int, bytes] | None = {} if whole and not blob.verified else None
        self._last: tuple[int, Chunk] | None = None
        self._wire: Wire | None = None
        self._lives = _LIVES

    async def __aenter__(self) -> Self:
        grid = self._blob.grid
        touched = grid.touched(self._parts[0].span)
        try:
            if touched and not await self._local(next(iter(grid.slices(self._parts[0].span)))):
                await self._attach(0, touched[0])
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self._detach()

    async def pieces(self, part: int) -> AsyncGenerator[Piece, None]:
        """The pieces of one part, in order: exactly its bytes, or Trouble (NotSoon, NoRoom, ContentCorrupt) is raised."""
        for piece in self._blob.grid.slices(self._parts[part].span):
            chunk = await self._local(piece)
            found = Piece(chunk, piece.start, piece.stop, "store") if chunk else await self._fetched(part, piece)
            if self._sums is not None:
                self._sums[piece.index] = await sha256_of(found.chunk)
            yield found
        if part == len(self._parts) - 1 and self._wire is not None:
            await self._end(self._wire)

    # --- from the store ------------------------------------------------------------------------------------------------

    async def _local(self, piece: Slice) -> Chunk | None:
        """The chunk from the store, if the fetcher has no say in it; open until the next piece is asked for."""
        if self._wire is not None or not self._blob.settled:
            return None
        if self._last is not None and self._last[0] == piece.index:
            return self._last[1]
        if self._sums is not None and piece.index == self._blob.grid.count - 1:
            return None  # the end is held back until all of it is known to be right
        self._close()
        chunk = await self._blob.view.load_chunk(self._blob.digest, self._blob.grid, piece.index)
        self._last = None if chunk is None else (piece.index, chunk)
        return chunk

    def _close(self) -> None:
        if self._last is not None:
            self._last[1].close()
            self._last = None

    # --- from the fetcher ----------------------------------------------------------------------------------------------

    async def _fetched(self, part: int, piece: Slice) -> Piece:
        """The next piece as the fetcher names it."""
        self._close()
        while True:
            try:
                if self._wire is None:
                    await self._attach(part, piece.index)
                return await self._next(piece)
            except WireLost:
                self._detach()
                self._lives -= 1
                if not self._lives:
                    raise Trouble("the process that fetches died again and again") from None

    async def _attach(self, part: int, index: int) -> None:
        """Have the fetcher read what is left, from chunk ``index`` of a part on. Raises what it says, or NotSoon."""
        blob = self._blob
        first = self._parts[part]
        start = max(first.span.start, index * blob.grid.chunk)
        rest = (Part(Span(start, first.span.stop), first.open_ended), *self._parts[part + 1 :])
        call = Read(blob.place, blob.size, rest, self._sums or None)
        with self._learning():
            self._wire, _ = await blob.line.begin(call, Reading)

    def _detach(self) -> None:
        """Give up the read, if there is one."""
        if self._wire is not None:
            self._blob.line.drop(self._wire)
            self._wire = None

    async def _next(self, piece: Slice) -> Piece:
        found = await self._step(_NEXT)
        if isinstance(found, Here) and (found.index, found.start, found.stop) == (
            piece.index,
            piece.start,
            piece.stop,
        ):
            chunk = self._blob.view.open_chunk(self._blob.digest, self._blob.grid, found.index, found.identity)
            if chunk is not None:
                self._last = found.index, chunk
                return Piece(chunk, found.start, found.stop, found.tier)
            found = await self._step(_SHOW)
        if isinstance(found, Bytes) and found.index == piece.index and len(found.data) == len(piece):
            return Piece(MemoryChunk(found.data), 0, len(found.data), found.tier)
        raise Trouble(f"the fetcher had another piece than {piece} of {self._blob.digest}")

    async def _step(self, message: bytes) -> Step:
        assert self._wire is not None  # noqa: S101
        self._wire.send(message)
        with self._learning():
            return await receive(self._wire, Step)

    @contextlib.contextmanager
    def _learning(self) -> Iterator[None]:
        """Have it known if the fetcher no longer believes the size."""
        try:
            yield
        except SizeContested:
            self._blob.contested()
            raise

    async def _end(self, wire: Wire) -> None:
        """Every piece has gone out: note what the fetcher knows of the blob now, and give the connection back."""
        with contextlib.suppress(WireLost, RegistryProxyError):  # too late to matter
            over = await self._step(_NEXT)
            if isinstance(over, Over):
                self._blob.learn(verified=over.verified)
                self._wire = None
                self._blob.line.keep(wire)
