"""The bytes of a span out of a file's objects, each verified before the first byte of it goes on.

While one object is delivered the next one is fetched. The first is there before the delivery is: a repository that cannot
give it is found out while the flight can still turn to another source.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from registry_proxy.errors import UpstreamBroken
from registry_proxy.plan.chunks import MIB, Span
from registry_proxy.sources.base import Urgency
from registry_proxy.sources.cvmfs.catalog import Entry, Piece
from registry_proxy.sources.cvmfs.catalogs import Catalogs
from registry_proxy.sources.cvmfs.objects import Objects, Wanted
from registry_proxy.sources.cvmfs.repository import Found
from registry_proxy.sources.cvmfs.spool import Spool
from registry_proxy.sources.cvmfs.workers import Workers

_PAGE = 64
"""Chunks looked up at once."""


@dataclass(frozen=True, slots=True)
class _Object:
    """An object at hand, and which bytes of the file it is."""

    wanted: Wanted
    spool: Spool
    span: Span


class CvmfsDelivery:
    """See ``sources.base.Delivery``. Whoever makes it calls ``begin`` first and ``end`` last."""

    ranged = True
    proves = False
    waited = 0.0

    def __init__(
        self,
        found: Found,
        span: Span,
        urgency: Urgency,
        *,
        catalogs: Catalogs,
        objects: Objects,
        workers: Workers,
        wanted: Callable[[Entry, Piece | None], Wanted],
        delivered: Callable[[int], None],
    ) -> None:
        self.span = span
        self.total: int | None = found.entry.size
        self.origin = ""
        self._found = found
        self._urgency = urgency
        self._catalogs = catalogs
        self._objects = objects
        self._workers = workers
        self._wanted = wanted
        self._delivered = delivered
        self._position = span.start
        self._page: deque[Piece] = deque()
        self._current: _Object | None = None
        self._ahead: asyncio.Task[_Object] | None = None

    async def begin(self) -> None:
        """Have the first object at hand; raises Trouble."""
        if self._position < self.span.stop:
            self._ahead = asyncio.create_task(self._take(self._position))
            await asyncio.wait({self._ahead})
            self.origin = self._ahead.result().spool.origin

    async def end(self) -> None:
        """Let go of everything."""
        self._release()
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return
        ahead.cancel()
        await asyncio.wait({ahead})
        if not ahead.cancelled() and ahead.exception() is None:
            self._objects.release(ahead.result().wanted)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes in order, in pieces of at most a MiB; raises Trouble."""
        while self._ahead is not None:
            current = self._current = await self._ahead
            stop = min(current.span.stop, self.span.stop)
            self._ahead = asyncio.create_task(self._take(stop)) if stop < self.span.stop else None
            while self._position < stop:
                data = await self._read(current, min(self._position + MIB, stop))
                self._position += len(data)
                self._delivered(len(data))
                yield data
            self._release()

    async def _read(self, current: _Object, stop: int) -> bytes:
        """The bytes of the file from the position to ``stop``, all in the current object."""
        base = current.span.start
        try:
            return await self._workers.run(current.spool.read, self._position - base, stop - base)
        except OSError as error:
            raise UpstreamBroken(f"an object cannot be read back: {error.strerror}") from error

    def _release(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            self._objects.release(current.wanted)

    async def _take(self, position: int) -> _Object:
        """The object that has the file's byte ``position``."""
        entry = self._found.entry
        if not entry.chunked:
            wanted = self._wanted(entry, None)
            return _Object(wanted, await self._objects.take(wanted, self._urgency), Span(0, entry.size))
        if not self._page:
            self._page.extend(await self._catalogs.pieces(self._found.catalog, entry, position, _PAGE))
        piece = self._page.popleft()
        wanted = self._wanted(entry, piece)
        return _Object(wanted, await self._objects.take(wanted, self._urgency), piece.span)
