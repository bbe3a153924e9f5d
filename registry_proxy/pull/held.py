"""Chunks that no store took: in memory, for the readers that have not come so far.

There are never more than a window of them. A flight that brings another one waits until a reader takes the oldest, which is how it
goes at its readers' pace; a reader that takes nothing for long is not waited for any more.
"""

import asyncio
from collections.abc import Sequence

import structlog

from registry_proxy.oci.digest import Digest
from registry_proxy.pull.waiters import Waiters
from registry_proxy.pull.wish import Wish
from registry_proxy.tiers.base import MemoryChunk

_log = structlog.get_logger()

WINDOW = 8
"""Chunks that are held at a time."""

_CRAMPED = 10.0
"""Seconds from a chunk that found no room until it is believed that there may be some again."""

_LAGGARD = 10.0
"""Seconds that a flight waits for a reader who does not take its chunk."""


class Held:
    """The chunks of one blob that are in memory only. ``wishes``, ``waiters``: the blob's, as they are at any moment."""

    def __init__(self, digest: Digest, wishes: Sequence[Wish], waiters: Waiters) -> None:
        self._digest = digest
        self._wishes = wishes
        self._waiters = waiters
        self._chunks: dict[int, MemoryChunk] = {}
        self._changed = asyncio.Event()
        self._cramped_until = 0.0

    def __contains__(self, index: int) -> bool:
        return index in self._chunks

    def get(self, index: int) -> MemoryChunk | None:
        """The chunk, if it is held."""
        return self._chunks.get(index)

    @property
    def cramped(self) -> bool:
        """True for a while after the store had no room: one flight at a time, at its readers' pace."""
        return asyncio.get_running_loop().time() < self._cramped_until

    def note_cramped(self) -> None:
        """The store has no room."""
        self._cramped_until = asyncio.get_running_loop().time() + _CRAMPED

    async def hold(self, index: int, chunk: MemoryChunk) -> None:
        """Keep a chunk for the readers that lag; beyond the window, wait for them.

        A reader that takes nothing for a while is not waited for any longer if somebody else wants to go on.
        """
        self.note_cramped()
        self._chunks[index] = chunk
        self.release()
        while len(self._chunks) > WINDOW:
            if self._nobody_takes(next(iter(self._chunks))):
                continue
            self._changed.clear()
            try:
                async with asyncio.timeout(_LAGGARD):
                    await self._changed.wait()
            except TimeoutError:
                if any(waited > index for waited in self._waiters):
                    self._drop_laggards(next(iter(self._chunks)))

    def look_again(self) -> None:
        """A reader stands still: whoever waits for readers looks again at what they wait for."""
        self._changed.set()

    def release(self) -> None:
        """Let go of what nobody wants any more."""
        if not self._chunks:
            return
        waited_for = [wish for wish in self._wishes if not wish.lagging]
        for index in [i for i in self._chunks if not any(wish.touches(i, i + 1) for wish in waited_for)]:
            del self._chunks[index]
            self._changed.set()

    def _nobody_takes(self, oldest: int) -> bool:
        """Let a held chunk go if all who want it stand still for another one, which comes only if the flight goes on."""
        wanting = [wish for wish in self._wishes if not wish.lagging and wish.touches(oldest, oldest + 1)]
        if any(wish.waiting is None or wish.waiting in self._chunks for wish in wanting):
            return False
        del self._chunks[oldest]
        return True

    def _drop_laggards(self, oldest: int) -> None:
        for wish in self._wishes:
            wish.lagging = wish.lagging or wish.touches(oldest, oldest + 1)
        _log.warning("laggards.dropped", digest=str(self._digest), chunk=oldest)
        self.release()
