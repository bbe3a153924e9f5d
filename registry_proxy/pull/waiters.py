"""Who waits for which chunk of a blob.

Whoever lands a chunk hands it over open: between its commit and its reader it cannot be evicted. The first to wait gets that one;
the others look for it in the store.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from registry_proxy.errors import RegistryProxyError
from registry_proxy.tiers.base import Chunk, MemoryChunk

Coming = asyncio.Future[Chunk | None]
"""A chunk on its way to one who waits for it, who closes it; None: look for it again."""


class Waiters:
    """The readers that stand still, by chunk."""

    def __init__(self) -> None:
        self._waiting: defaultdict[int, list[Coming]] = defaultdict(list)

    def __contains__(self, index: int) -> bool:
        return index in self._waiting

    def __iter__(self) -> Iterator[int]:
        """The chunks that somebody waits for."""
        return iter(list(self._waiting))

    @contextmanager
    def wait(self, index: int) -> Iterator[Coming]:
        """Wait for a chunk. One that comes in the very moment in which its reader gives up is closed."""
        coming: Coming = asyncio.get_running_loop().create_future()
        self._waiting[index].append(coming)
        try:
            yield coming
        except BaseException:
            _give_back(coming)
            raise
        finally:
            self._forget(index, coming)

    def wake(self, index: int, chunk: Chunk | None = None) -> None:
        """Wake everybody who waits for a chunk. One in memory is for all of them, an open file for the first."""
        shared = isinstance(chunk, MemoryChunk)
        for coming in self._waiting.pop(index, ()):
            if not coming.done():
                coming.set_result(chunk)
                chunk = chunk if shared else None
        if chunk is not None:
            chunk.close()

    def fail(self, index: int, trouble: RegistryProxyError) -> None:
        """Tell everybody who waits for a chunk that it does not come."""
        for coming in self._waiting.pop(index, ()):
            if not coming.done():
                coming.set_exception(trouble)
                coming.exception()  # a reader that left in the meantime does not make it an unretrieved one

    def _forget(self, index: int, coming: Coming) -> None:
        """A reader waits no longer; those who were woken are forgotten already."""
        waiting = self._waiting.get(index, [])
        if coming in waiting:
            waiting.remove(coming)
            if not waiting:
                del self._waiting[index]


def _give_back(coming: Coming) -> None:
    if coming.done() and not coming.cancelled() and coming.exception() is None:
        chunk = coming.result()
        if chunk is not None:
            chunk.close()
