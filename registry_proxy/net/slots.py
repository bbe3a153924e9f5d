"""A limit on concurrent exchanges with an upstream, the most urgent first."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol


class GivenUp(Exception):
    """Whoever waited for a slot does not want one any more."""


class Urgent(Protocol):
    """How urgent a waiter is, now. It may become more urgent while it waits, and calls ``raised`` then, or leave: ``withdraw``."""

    raised: Callable[[], None] | None
    withdraw: Callable[[], None] | None

    @property
    def priority(self) -> int:
        """0: somebody waits for the bytes; more: later."""


class Slots:
    """``count`` slots, of which those who are not urgent leave a quarter (at least one, if there are two) to those who are.

    Without that, downloads that nobody waits for yet would hold every connection for minutes.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._kept = max(count // 4, 1) if count > 1 else 0
        self._waiting: dict[asyncio.Future[None], Urgent | None] = {}

    @asynccontextmanager
    async def slot(self, urgency: Urgent | None = None) -> AsyncIterator[None]:
        """Hold a slot; waits for one as long as it takes. ``urgency``: None is as urgent as it gets. Raises GivenUp."""
        await self._acquire(urgency)
        try:
            yield
        finally:
            self._free += 1
            self._review()

    async def _acquire(self, urgency: Urgent | None) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = urgency
        if urgency is not None:
            urgency.raised, urgency.withdraw = self._review, partial(self._withdraw, turn)
        self._review()
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting.pop(turn, None)
            if turn.done() and not turn.cancelled() and turn.exception() is None:  # the slot had come just before
                self._free += 1
                self._review()
            raise
        finally:
            if urgency is not None:
                urgency.withdraw = None

    def _withdraw(self, turn: "asyncio.Future[None]") -> None:
        if self._waiting.pop(turn, self) is not self and not turn.done():
            turn.set_exception(GivenUp())

    def _review(self) -> None:
        """Give the free slots away."""
        while self._waiting:
            turn = min(self._waiting, key=lambda each: _priority(self._waiting[each]))  # the first of equals came first
            if not self._may_have(_priority(self._waiting[turn])):
                return
            del self._waiting[turn]
            if not turn.done():
                self._free -= 1
                turn.set_result(None)

    def _may_have(self, priority: int) -> bool:
        return self._free > (0 if priority == 0 else self._kept)


def _priority(urgency: Urgent | None) -> int:
    return 0 if urgency is None else int(urgency.priority)
