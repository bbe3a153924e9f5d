"""The store's own threads: a disk that hangs must not hold up what others do in threads (name look-ups, for one).

A thread cannot be cancelled. ``finish`` therefore runs a piece of work to its end even if whoever asked for it has left.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_CLOSING: Final = 30.0


class Threads:
    """A few threads, and the tasks that wait for them. ``count``: threads at most; ``nice``: how far they stand back."""

    def __init__(self, name: str, count: int, nice: int = 0) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name, initializer=_stand_back, initargs=(nice,))
        self._tasks: set[asyncio.Task[object]] = set()

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result, from a thread. It runs on if the caller is cancelled."""
        return await asyncio.wrap_future(self._executor.submit(function, *args, **kwargs))

    def start(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """A task that ``close`` waits for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(
        self, work: Coroutine[object, object, T], patience: float, abandoned: Callable[[T], None] = lambda _: None
    ) -> T:
        """The result of ``work``, which goes on in the background if the caller is cancelled.

        Raises TimeoutError after ``patience`` seconds; the work goes on then too. A result that nobody waits for any more is
        handed to ``abandoned``.
        """
        task = self.start(work)
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(task)
        except (asyncio.CancelledError, TimeoutError):
            task.add_done_callback(lambda done: _hand_over(done, abandoned))
            raise

    async def settle(self) -> None:
        """Wait for what is running, for a while."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSING)

    async def close(self) -> None:
        """Wait for what is running, for a while, and take no more."""
        await self.settle()
        self._executor.shutdown(wait=False, cancel_futures=True)


def _stand_back(nice: int) -> None:
    """Lower this thread's priority; on Linux each thread has its own."""
    if nice:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def _hand_over(task: asyncio.Task[T], abandoned: Callable[[T], None]) -> None:
    if not task.cancelled() and task.exception() is None:
        abandoned(task.result())
