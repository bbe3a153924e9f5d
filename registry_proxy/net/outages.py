"""Who waits in line for a host that has stopped answering is told so at once.

Each exchange with such a host holds its slot until its time is over. Without this, a thousand requests would find out one after the
other, a few at a time, and the last of them after an hour.
"""

import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Final

from registry_proxy.errors import UpstreamDown, UpstreamUnreachable

_SILENCE: Final = 1.0
"""Seconds without any answer after which a failure is believed to be everybody's. What fails faster holds nobody up."""


class Outages:
    """Of one upstream. ``what``, everywhere: what answers or does not, as a text for people; ``clock``: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answered: dict[str, float] = {}
        self._fell: dict[str, float] = {}

    @asynccontextmanager
    async def line(self, what: str, slot: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
        """Hold the slot; raises UpstreamDown if it was waited for while ``what`` stopped answering."""
        since = self._clock()
        async with slot:
            if self._fell.get(what, -math.inf) > since:
                raise UpstreamDown(f"{what} has stopped answering")
            yield

    @contextmanager
    def watched(self, what: str) -> Iterator[None]:
        """Around the time until an answer begins."""
        began = self._clock()
        try:
            yield
        except UpstreamUnreachable:
            now = self._clock()
            if now - began >= _SILENCE and self._answered.get(what, -math.inf) < began:
                self._fell[what] = now
            raise
        self._answered[what] = self._clock()
        self._fell.pop(what, None)
