"""Threads for calls that may never return: a FUSE file system that hangs keeps whoever asks it.

Python's own executors wait for their threads when the process ends, so these are daemon threads that nobody joins. A thread
whose call was given up on is replaced, up to a limit. Everything but the calls themselves happens on the event loop.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Call(Generic[T]):
    """One call. ``began``: a thread has taken it up; ``given_up``: nobody waits for it (any more); ``skip``: no thread need take
    it up."""

    def __init__(self, function: Callable[[], T], late: Callable[[T | Exception], None]) -> None:
        self.function = function
        self.late = late
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[T] = self.loop.create_future()
        self.began = False
        self.given_up = False
        self.skip = False

    def give_up(self) -> None:
        """Nobody waits any more; if it has returned in this very moment, that was too late as well."""
        done = self.done
        if not done.done() or done.cancelled():
            self.given_up = self.skip = True
        elif done.exception() is None:
            self.late(done.result())


class Unjoined:
    """At most ``count`` threads that work, and ``most`` with those that hang."""

    def __init__(self, name: str, count: int, most: int) -> None:
        self._name = name
        self._count = count
        self._most = most
        self._queue: queue.SimpleQueue[Call[object] | None] = queue.SimpleQueue()
        self._calls: set[Call[object]] = set()
        self._threads = 0
        self._closed = False

    @property
    def hung(self) -> int:
        """Calls given up on that have not returned."""
        return sum(call.began and call.given_up for call in self._calls)

    async def run(
        self, function: Callable[[], T], limit: float, late: Callable[[T | Exception], None] = lambda _: None
    ) -> T:
        """The function's result, from a thread. Raises TimeoutError after ``limit`` seconds, and what the function raises.

        If nobody waits for it any more when it returns, after all, ``late`` gets what it returned or raised.
        """
        call = Call(function, late)
        self._submit(call)
        try:
            async with asyncio.timeout(limit):
                return await call.done
        except (TimeoutError, asyncio.CancelledError):
            call.give_up()
            raise

    def leave(self, function: Callable[[], object]) -> None:
        """Have something tidied up that nobody waits for. Once closed, the end of the process tidies up."""
        if self._closed:
            return
        call: Call[object] = Call(function, lambda _: None)
        call.done.cancel()
        call.given_up = True
        self._submit(call)

    def close(self) -> None:
        """Take no more. Threads that wait for work end; those that hang are left to the end of the process."""
        self._closed = True
        for _ in range(self._threads):
            self._queue.put(None)

    def _submit(self, call: Call[T]) -> None:
        if self._closed:
            raise RuntimeError("closed")
        self._calls.add(call)  # type: ignore[arg-type]  # a call hands its result to nobody but its own caller
        self._queue.put(call)  # type: ignore[arg-type]
        working = self._threads - self.hung
        if working < min(self._count, len(self._calls) - self.hung) and self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            call.began = not call.skip
            try:
                result = call.function() if call.began else None
            except Exception as error:  # noqa: BLE001  # it goes to whoever waits
                result = error
            try:
                call.loop.call_soon_threadsafe(self._returned, call, result)
            except RuntimeError:
                return  # the loop is gone, and the process about to be

    def _returned(self, call: Call[object], result: object) -> None:
        self._calls.discard(call)
        if self._threads - self.hung > self._count and not self._closed:
            self._threads -= 1
            self._queue.put(None)
        if not call.began:
            return
        if call.done.done():
            call.late(result)
        elif isinstance(result, Exception):
            call.done.set_exception(result)
        else:
            call.done.set_result(result)
