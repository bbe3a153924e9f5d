"""One running fetch.

Lifetime of a flight:

=========  ==============================================================================================================
planned    ``run`` is claimed: no other flight will fetch those chunks
open       a source has answered; a ranged delivery brings the run, a range-less one brings the whole blob from byte 0
landing    each full chunk is handed to the landing, which commits it and wakes its waiters
resumed    a cut body is asked for again from the first missing chunk (ranged), or from the start and skipped (range-less)
over       everything landed, or nobody wants the rest, or the trouble did not pass: the flight raises it
=========  ==============================================================================================================

A flight reads the network at the network's pace. Clients never slow it: they read from where it lands.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from registry_proxy.errors import (
    BlobUnknown,
    ContentCorrupt,
    Denied,
    Offline,
    RegistryProxyError,
    SizeContested,
    Trouble,
    UpstreamBusy,
)
from registry_proxy.net.slots import GivenUp
from registry_proxy.plan.chunks import Grid, Run
from registry_proxy.plan.refusals import MAX_RETRY_AFTER
from registry_proxy.sources.base import BlobPlace, Delivery, Source, Urgency

_PAUSES = (0.2, 1.0, 3.0)
"""Seconds between attempts to resume a cut body; an attempt that brought a chunk starts the count anew."""

_RATE_AFTER = 0.2
"""Seconds of transfer before its speed means anything."""


class Landing(Protocol):
    """Where the chunks of a flight go."""

    def learned(self, flight: "Flight", delivery: Delivery) -> bool:
        """A source has answered; False ends the flight (another one brings these bytes already)."""

    def needs(self, index: int) -> bool:
        """True unless the chunk is here already."""

    async def land(self, flight: "Flight", index: int, data: bytearray) -> None:
        """Take a full chunk; raises ContentCorrupt."""

    def goes_on(self, flight: "Flight") -> bool:
        """True while somebody wants what is still to come."""


class Flight:
    """Fetches ``run`` of a blob; ``next`` is the first chunk that has not landed, ``stop`` the end of what will.

    ``adopted``: it was started for nobody in particular, and does not depend on its readers.
    """

    def __init__(
        self, place: BlobPlace, grid: Grid, run: Run, sources: Sequence[Source], urgency: Urgency, landing: Landing
    ) -> None:
        self.place = place
        self.grid = grid
        self.next = run.first
        self.stop = run.stop
        self.length = len(run)
        self.urgency = urgency
        self.whole = False
        self.source = ""
        self.origin = ""
        self.started = False
        self.adopted = False
        self._sources = sources
        self._landing = landing
        self._since = 0.0
        self._received = 0

    def covers(self, index: int) -> bool:
        """True if this flight will bring the chunk."""
        return self.next <= index < self.stop

    @property
    def rate(self) -> float | None:
        """Bytes per second so far; None until that means something."""
        elapsed = asyncio.get_running_loop().time() - self._since
        return self._received / elapsed if self._since and elapsed > _RATE_AFTER else None

    def seconds_until(self, index: int) -> float | None:
        """The flight's own estimate of when a chunk it covers has landed; None while it has none."""
        rate = self.rate
        if not rate:
            return None
        ahead = self.grid.span_of_run(Run(self.next, index + 1))
        return max(0.0, len(ahead) / rate)

    def give_up(self) -> None:
        """Nobody wants it any more: if it still waits for a connection it ends, and nothing is asked of anybody."""
        if not self.started and not self.adopted:
            self.urgency.give_up()

    async def fly(self) -> None:
        """Fetch until everything landed or nobody wants the rest; raises the trouble that did not pass."""
        failures = 0
        while self.next < self.stop:
            before = self.next
            try:
                await self._attempt()
            except GivenUp:
                self.stop = self.next
            except ContentCorrupt:
                for source in self._sources:
                    source.doubt(self.place.digest)
                raise
            except Trouble as trouble:
                failures = 1 if self.next > before else failures + 1
                pause = self._pause(trouble, failures)
                if pause is None:
                    raise
                await asyncio.sleep(pause)
            else:
                return

    def _pause(self, trouble: Trouble, failures: int) -> float | None:
        """Seconds until the rest is asked for again; None if it is not, and whoever waits is told."""
        if not self.started or failures > len(_PAUSES) or not self._landing.goes_on(self):
            return None
        if isinstance(trouble, SizeContested):
            return None  # the same would come again
        wanted = trouble.retry_after if isinstance(trouble, UpstreamBusy) else 0.0
        return max(_PAUSES[failures - 1], wanted) if wanted <= MAX_RETRY_AFTER else None

    async def _attempt(self) -> None:
        async with self._open() as delivery:
            self.started = True
            self.origin = delivery.origin
            if not self._landing.learned(self, delivery):
                return
            self._since = asyncio.get_running_loop().time()
            self._received = 0
            await self._receive(delivery)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Delivery]:
        """The first source, in order, that answers; raises what the last one said."""
        span = self.grid.span_of_run(Run(self.next, self.stop))
        async with AsyncExitStack() as stack:
            said: RegistryProxyError | None = None
            for source in self._sources:
                try:
                    delivery = await stack.enter_async_context(
                        source.open(self.place, None if self.whole else span, self.grid.size, self.urgency)
                    )
                except (BlobUnknown, Denied, Trouble) as error:
                    said = error
                    continue
                self.source = source.name
                yield delivery
                return
            raise said or Offline("the proxy is offline, and the cache does not have these bytes")

    async def _receive(self, delivery: Delivery) -> None:
        """Cut the delivery into chunks and land those that are needed."""
        grid = self.grid
        if not delivery.ranged:
            self._become_whole()
        position = delivery.span.start
        buffer = bytearray()
        async for data in delivery:
            self._received += len(data)
            view = memoryview(data)
            while view:
                index = position // grid.chunk
                left = grid.length_of(index) - (position - index * grid.chunk)
                piece = view[:left]
                view = view[left:]
                position += len(piece)
                if index >= self.next:
                    buffer += piece
                if len(piece) == left and index >= self.next:
                    await self._landed(index, buffer)
                    buffer = bytearray()
                    if not self._landing.goes_on(self):
                        self.stop = self.next
                        return

    def _become_whole(self) -> None:
        """The source sends everything: this is the one whole-blob flight now, and brings every chunk from the first."""
        if not self.whole:
            self.whole = True
            self.next = 0
        self.stop = self.grid.count

    async def _landed(self, index: int, buffer: bytearray) -> None:
        if self._landing.needs(index):
            await self._landing.land(self, index, buffer)
        self.next = index + 1
