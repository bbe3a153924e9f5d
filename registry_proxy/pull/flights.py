"""All that is under way for one blob: the wishes of its readers, the flights that serve them, the waiters for each chunk.

A reader that misses a chunk waits for it here. ``pump`` turns wishes into flights: adjacent missing chunks become one run,
nothing is fetched that a flight is bringing already, and until it is known whether the upstream has ranges only one flight
asks. Everything between two awaits is atomic, so there are no locks.
"""

import asyncio
import contextlib
from collections.abc import Sequence

import structlog

from registry_proxy.errors import NoRoom, NotSoon, RegistryProxyError, SizeContested, Trouble, UpstreamUnreachable
from registry_proxy.plan.chunks import Grid, Run, Span
from registry_proxy.plan.readahead import Trail, run_chunks
from registry_proxy.pull.flight import Flight
from registry_proxy.pull.heart import Heart
from registry_proxy.pull.held import WINDOW, Held
from registry_proxy.pull.inspection import Inspection
from registry_proxy.pull.landing import BlobLanding
from registry_proxy.pull.waiters import Waiters
from registry_proxy.pull.wish import Wish
from registry_proxy.sources.base import BlobPlace, Delivery, Priority, Urgency
from registry_proxy.tiers.base import Chunk, MemoryChunk
from registry_proxy.tiers.stack import TierBlob
from registry_proxy.tiers.store import Room, StoredChunk

_log = structlog.get_logger()

_PARALLEL = 4
"""Flights at once for one wish: enough to hide the round trips of scattered reads."""

_STALL = 120.0
"""Seconds a reader waits for one chunk at the most, whatever its flight estimates."""

_LOSSES = 8
"""Times that a reader waits again for a chunk that landed and was gone before it could be opened."""

_LINGER = 2.0
"""Seconds that the read-ahead of a sequential reader stays wanted between two of its requests."""


class BlobFlights:
    """The wishes, flights and waiters of one blob. ``place``: where the next flight fetches it, which is where it was opened last."""

    def __init__(self, place: BlobPlace, grid: Grid, landing: BlobLanding, heart: Heart) -> None:
        self.place = place
        self.grid = grid
        self.landing = landing
        self.trail = Trail()
        self.inspection: Inspection | None = None
        self._heart = heart
        self._wishes: list[Wish] = []
        self._flights: dict[Flight, asyncio.Task[None]] = {}
        self._rooms: dict[Flight, Room | None] = {}
        self._waiters = Waiters()
        self._held = Held(place.digest, self._wishes, self._waiters)
        self._ranged: bool | None = None
        self._rate: float | None = None

    # --- readers ---------------------------------------------------------------------------------------------------

    def join(self, wish: Wish) -> None:
        """A reader arrives: what it wants is planned for at once, and the flights that it shares become as urgent as it is."""
        self._wishes.append(wish)
        for flight in self._flights:
            if wish.touches(flight.next, flight.stop):
                flight.urgency.raise_to(wish.priority)
                self._heart.metrics.flight_joined()
        self.pump(wish)

    def leave(self, wish: Wish) -> None:
        """A reader leaves: flights that nobody else wants end at their next chunk, or at once if they still wait for a connection."""
        if wish in self._wishes:
            self._wishes.remove(wish)
        for flight in self._flights:
            if not self._wanted(flight):
                flight.give_up()
        self._held.release()

    def linger(self, wish: Wish) -> None:
        """Keep the read-ahead of a reader wanted for a moment: its next request will most likely continue there."""
        self._wishes.append(wish)
        asyncio.get_running_loop().call_later(_LINGER, self.leave, wish)

    async def close(self) -> None:
        """Stop everything that flies."""
        tasks = list(self._flights.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def advance(self, wish: Wish, index: int) -> None:
        """The reader is done with everything before ``index``."""
        wish.advance(index)
        self._held.release()

    def finish(self, wish: Wish, index: int) -> None:
        """The reader is done with this chunk, if not in order."""
        wish.finish(index)
        self._held.release()

    @property
    def held_back(self) -> bool:
        """True if readers of ranges wait until what they read has been compared with the blob's table of contents."""
        inspection = self.inspection
        return (
            inspection is not None
            and inspection.holds
            and not (inspection.over or inspection.distrusted or self.landing.verified)
            and self._ranged is not False
        )

    def at_hand(self, index: int) -> Chunk | None:
        """The chunk, open, if that takes no waiting."""
        return self._held.get(index) or self._heart.store.open_chunk(self.place.digest, self.grid, index)

    async def aside(self, chunks: Sequence[int]) -> TierBlob | None:
        """The blob in a tier beside the store, if there are tiers and one of these chunks is not in the store."""
        look = self._heart.aside
        if look is None or all(self._heart.store.has(self.place.digest, index) for index in chunks):
            return None
        return await look(self.place, self.grid.size)

    async def chunk(self, index: int, wish: Wish) -> tuple[Chunk, str]:
        """An open chunk and the tier or source it came from; waits for its flight. Raises Trouble, NoRoom."""
        for _ in range(_LOSSES):
            here = self._held.get(index) or await self._heart.store.load_chunk(self.place.digest, self.grid, index)
            if here is not None:
                return here, "store"
            landed = await self._landed(index, wish)
            if isinstance(landed, StoredChunk) and not landed.unchanged():
                landed.close()  # written to from outside since it was committed: to be hashed like any that is found
            elif landed is not None:
                return landed, "upstream"
        raise Trouble(f"chunk {index} of {self.place.digest} was fetched and lost again, {_LOSSES} times")

    async def _landed(self, index: int, wish: Wish) -> Chunk | None:
        """Wait until a flight has landed the chunk; None if it is to be looked for again."""
        wish.waiting = index
        self._held.look_again()
        try:
            with self._waiters.wait(index) as coming:
                if not self._coming(index):
                    self._check_room(index, wish)
                    wish.rewind(index)
                    self.pump(wish)
                async with asyncio.timeout(_STALL):
                    return await coming
        except TimeoutError:
            raise UpstreamUnreachable(f"chunk {index} of {self.place.digest} did not come in {_STALL:.0f} s") from None
        finally:
            wish.waiting = None

    def check_patience(self, index: int, wish: Wish) -> None:
        """Raises NotSoon if the flight that brings this chunk will take longer than a client should be kept waiting (unless it
        is the very next one: nobody can have it sooner), and NoRoom if a range-less stream that could not be kept has passed
        it, or is too far from it.
        """
        self._check_room(index, wish)
        patience = self._heart.policy.patience
        for flight in self._flights:
            seconds = flight.seconds_until(index) if flight.next < index < flight.stop else None
            if seconds is not None and seconds > patience:
                message = f"the upstream needs about {seconds:.0f} s to reach this range"
                raise NotSoon(message, retry_after=min(max(1.0, seconds - patience), 10.0))

    def _check_room(self, index: int, wish: Wish) -> None:
        """Without room, a range-less stream serves those who read along; for anybody else it would have to start again."""
        for flight in self._flights if self._held.cramped else ():
            others = any(one is not wish and one.touches(flight.next, flight.stop) for one in self._wishes)
            if flight.whole and others and not flight.next <= index <= flight.next + WINDOW:
                raise NoRoom(
                    f"the store has no room for the {self.grid.size} bytes of this blob, which come in one stream"
                )

    # --- planning --------------------------------------------------------------------------------------------------

    def pump(self, wish: Wish) -> None:
        """Start the flights that a wish needs and that may start now."""
        while (run := self._next_run(wish)) is not None:
            self._start(run, wish.priority)

    def adopt(self) -> None:
        """Fetch the whole blob for nobody in particular (a sibling layer on a range-less upstream)."""
        if not self._flights and self._heart.store.missing(self.place.digest, self.grid):
            self._start(Run(0, self.grid.count), Priority.PREFETCH).adopted = True

    def _next_run(self, wish: Wish) -> Run | None:
        serving = [flight for flight in self._flights if wish.touches(flight.next, flight.stop)]
        if self._flights and (self._ranged is None or any(flight.whole for flight in self._flights)):
            return None
        if len(serving) >= _PARALLEL or (self._held.cramped and self._flights):
            return None
        busy = sum(flight.stop - flight.next > max(1, flight.length // 4) for flight in serving)
        if wish.contiguous and busy >= self._heart.waits[self.place.upstream].abreast():
            return None
        if self._held.cramped and wish.turn is not None:
            return wish.run_waited_for(self._absent, WINDOW)
        return wish.next_run(self._absent, run_chunks(self._rate, self.grid.chunk))

    def _absent(self, index: int) -> bool:
        return self.needs(index) and not self._coming(index)

    def _coming(self, index: int) -> bool:
        return any(flight.covers(index) for flight in self._flights)

    # --- flights ---------------------------------------------------------------------------------------------------

    def _start(self, run: Run, priority: Priority) -> Flight:
        self._heart.flying.add(self)
        flight = Flight(self.place, self.grid, run, self._heart.asked, Urgency(priority), self)
        self._flights[flight] = asyncio.create_task(self._fly(flight), name=f"flight {self.place.digest} {run}")
        self._heart.metrics.flight_started()
        return flight

    async def _fly(self, flight: Flight) -> None:
        """Own one flight from its start to its end, and tell its waiters how it ended."""
        trouble: RegistryProxyError | None = None
        try:
            await flight.fly()
        except RegistryProxyError as error:
            trouble = error
            if isinstance(error, SizeContested) and not self.landing.verified:
                self._heart.contested(flight.place)
            _log.warning("flight.failed", digest=str(self.place.digest), upstream=self.place.upstream, error=str(error))
        except Exception as error:  # noqa: BLE001  # a mistake of ours must not leave readers waiting for ever
            _log.exception("flight.crashed", digest=str(self.place.digest))
            trouble = Trouble(f"internal error: {error!r}")
        finally:
            del self._flights[flight]
            self._release_room(flight)
            self._heart.orphans.forget(flight)
            self._heart.metrics.flight_finished()
        self._rate = flight.rate or self._rate
        if trouble is None:
            self._after_end(flight)
        else:
            self._after_trouble(flight, trouble)
        if not self._flights:
            self._heart.flying.discard(self)
            for index in self._waiters:
                self._waiters.wake(index)

    def _after_end(self, flight: Flight) -> None:
        """Plan again for whoever the flight has not served (it may have brought other chunks than it set out for)."""
        for wish in self._wishes:
            wish.rewind(flight.next)
            self.pump(wish)

    def _after_trouble(self, flight: Flight, trouble: RegistryProxyError) -> None:
        """Fail those who waited for this flight; those who did not depend on it are planned for again.

        Where no source answered at all, everybody who waits fails: the next flight would fare no better.
        """
        for index in self._waiters:
            if not self._coming(index) and (not flight.started or flight.next <= index < flight.stop):
                self._waiters.fail(index, trouble)
        for wish in self._wishes:
            wish.rewind(flight.next)
            if flight.started and not wish.touches(flight.next, flight.stop):
                self.pump(wish)

    # --- what a flight reports (the Landing protocol) ----------------------------------------------------------------

    def learned(self, flight: Flight, delivery: Delivery) -> bool:
        """Note whether the source has ranges. Of several range-less answers only the first goes on."""
        if delivery.proves:
            self._heart.delivered(flight.place, self.grid.size, delivery.total is not None)
        self._ranged = delivery.ranged
        self._heart.waits[self.place.upstream].note(delivery.waited)
        if delivery.ranged:
            for wish in self._wishes:
                self.pump(wish)
            return True
        if any(other.whole for other in self._flights if other is not flight):
            return False
        if any(wish.partial for wish in self._wishes):
            self._heart.learned_rangeless(flight.place)
        if not flight.whole:
            self._release_room(flight)  # that was for its run
        return True

    def needs(self, index: int) -> bool:
        """True unless the chunk is stored or held. Where somebody waits for it he has looked and found nothing, whatever the store believes."""
        return index in self._waiters or not (index in self._held or self._heart.store.has(self.place.digest, index))

    async def land(self, flight: Flight, index: int, data: bytearray) -> None:
        """Commit a chunk, wake its waiters, plan on. Raises ContentCorrupt."""
        if flight not in self._rooms:
            self._rooms[flight] = await self._reserve(self.grid.span_of_run(Run(index, flight.stop)))
        self._heart.metrics.filled()
        with self.inspection.landing_of(index) if self.inspection is not None else contextlib.nullcontext():
            chunk = await self.landing.land(index, data, self._rooms[flight], flight.origin)
        self._waiters.wake(index, chunk)
        if isinstance(chunk, MemoryChunk):
            await self._held.hold(index, chunk)
        for wish in self._wishes:
            self.pump(wish)

    def goes_on(self, flight: Flight) -> bool:
        """True while a wish overlaps what is to come; a range-less stream is paid for and goes on within its budget."""
        if self._wanted(flight):
            self._heart.orphans.forget(flight)
            return True
        return flight.whole and not self._held.cramped and self._heart.orphans.may_go_on(flight)

    def _wanted(self, flight: Flight) -> bool:
        return any(wish.touches(flight.next, flight.stop) for wish in self._wishes)

    # --- space -------------------------------------------------------------------------------------------------------

    async def _reserve(self, span: Span) -> Room | None:
        room = await self._heart.store.reserve(len(span), self.place.digest)
        if room is None:
            self._held.note_cramped()
            _log.warning("store.no_room", digest=str(self.place.digest), bytes=len(span), limit=self._heart.store.limit)
        return room

    def _release_room(self, flight: Flight) -> None:
        room = self._rooms.pop(flight, None)
        if room is not None:
            room.release()
