"""One run of a piece of work for all who want its result at the same time."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class _Shared(Generic[V]):
    def __init__(self, task: asyncio.Task[V]) -> None:
        self.task = task
        self.waiters = 0


class SingleFlight(Generic[K, V]):
    """Whoever comes while the work for a key is running shares its result or its error; the last to leave cancels it."""

    def __init__(self) -> None:
        self._running: dict[K, _Shared[V]] = {}

    async def do(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """The result of ``work``, run once for all concurrent callers with this key."""
        shared = self._running.get(key)
        if shared is None or shared.task.done():
            shared = self._running[key] = _Shared(asyncio.create_task(work()))
        shared.waiters += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.waiters -= 1
            if not shared.waiters:
                await self._end(key, shared)

    async def _end(self, key: K, shared: _Shared[V]) -> None:
        if self._running.get(key) is shared:
            del self._running[key]
        if not shared.task.done():
            shared.task.cancel()
            with suppress(asyncio.CancelledError, Exception):  # nobody is left who wants to know
                await shared.task
