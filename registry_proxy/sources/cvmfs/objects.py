"""The data objects: fetched once for all who want them, verified, and kept for a moment for whoever reads on.

Flights ask for less than an object at a time; without that moment each of them would fetch it anew. Objects lie in temporary
files, whose bytes are bounded: whoever needs room waits until somebody has read on.
"""

import asyncio
from collections import Counter, OrderedDict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from registry_proxy.errors import UpstreamBroken, UpstreamBusy
from registry_proxy.net.single import SingleFlight
from registry_proxy.net.slots import Slots
from registry_proxy.plan.chunks import Span
from registry_proxy.sources.base import Urgency
from registry_proxy.sources.cvmfs.hashes import ContentHash
from registry_proxy.sources.cvmfs.servers import Servers
from registry_proxy.sources.cvmfs.sinks import Verified
from registry_proxy.sources.cvmfs.spool import Spool
from registry_proxy.sources.cvmfs.workers import Workers

_ROOM = 256 << 20
"""Bytes of objects on disk at one time. A larger object cannot be delivered: it must be whole before its first byte is."""

_MOMENT = 60.0
"""Seconds for which an object stays after its last reader."""

_PATIENCE = 30.0
"""Seconds that a fetch waits for room."""

MAX_OBJECT = _ROOM // 4


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object: ``size`` bytes once inflated. ``servers``: who has it, at ``path``; ``part``: the bytes of that to ask for."""

    servers: Servers
    path: str
    hash: ContentHash
    size: int
    compressed: bool
    part: Span | None = None


class Objects:
    """The objects at hand. ``directory``: where temporary files go. Close it with ``close``."""

    def __init__(self, directory: Path, workers: Workers, slots: Slots, room: int = _ROOM) -> None:
        self._directory = directory
        self._workers = workers
        self._slots = slots
        self._room = room
        self._used = 0
        self._at_hand: OrderedDict[ContentHash, Spool] = OrderedDict()
        self._readers: Counter[ContentHash] = Counter()
        self._flights: SingleFlight[ContentHash, Spool] = SingleFlight()
        self._timers: dict[ContentHash, asyncio.TimerHandle] = {}
        self._changed = asyncio.Event()

    async def take(self, wanted: Wanted, urgency: Urgency) -> Spool:
        """The verified object, which stays until as many ``release`` as ``take`` have come; raises Trouble."""
        self._readers[wanted.hash] += 1
        self._stop_timer(wanted.hash)
        try:
            spool = self._at_hand.get(wanted.hash)
            if spool is None:
                spool = await self._flights.do(wanted.hash, partial(self._fetch, wanted, urgency))
            if spool.size != wanted.size:
                raise UpstreamBroken(f"catalogs do not agree on how long {wanted.hash} is")
        except BaseException:
            self.release(wanted)
            raise
        self._at_hand.move_to_end(wanted.hash)
        return spool

    def release(self, wanted: Wanted) -> None:
        """One reader less."""
        self._readers[wanted.hash] -= 1
        if not self._readers[wanted.hash]:
            del self._readers[wanted.hash]
            self._changed.set()
            if wanted.hash in self._at_hand:
                self._timers[wanted.hash] = asyncio.get_running_loop().call_later(_MOMENT, self._drop, wanted.hash)

    def close(self) -> None:
        """Give all files back."""
        for idle in list(self._at_hand):
            self._drop(idle)

    async def _fetch(self, wanted: Wanted, urgency: Urgency) -> Spool:
        await self._reserve(wanted.size)
        spools: list[Spool] = []
        kept = False
        try:
            async with self._slots.slot(urgency):
                _, server = await wanted.servers.get(
                    wanted.path, partial(self._sink, wanted, spools), wanted.hash.digest, wanted.part
                )
            spool = spools.pop()
            spool.origin = server
            self._at_hand[wanted.hash] = spool
            kept = True
            return spool
        except OSError as error:
            raise UpstreamBroken(f"no room for an object: {error.strerror}") from error
        finally:
            for spool in spools:
                spool.close()
            if not kept:
                self._used -= wanted.size
                self._changed.set()

    def _sink(self, wanted: Wanted, spools: list[Spool]) -> Verified:
        while spools:  # an attempt that failed
            spools.pop().close()
        spools.append(Spool(self._directory))
        return Verified(wanted.hash, wanted.size, spools[-1].write, compressed=wanted.compressed)

    async def _reserve(self, size: int) -> None:
        """Account for ``size`` more bytes, once there is room; raises UpstreamBusy if that takes too long."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while self._used + size > self._room:
                    if not self._drop_oldest():
                        self._changed.clear()
                        await self._changed.wait()
        except TimeoutError:
            raise UpstreamBusy("too many CVMFS objects are being read at once") from None
        self._used += size

    def _drop_oldest(self) -> bool:
        """Drop the object that nobody has read for longest; False if all are being read."""
        idle = next((each for each in self._at_hand if each not in self._readers), None)
        if idle is None:
            return False
        self._drop(idle)
        return True

    def _drop(self, idle: ContentHash) -> None:
        self._stop_timer(idle)
        spool = self._at_hand.pop(idle)
        self._used -= spool.size
        self._changed.set()
        spool.close()

    def _stop_timer(self, content: ContentHash) -> None:
        timer = self._timers.pop(content, None)
        if timer is not None:
            timer.cancel()
