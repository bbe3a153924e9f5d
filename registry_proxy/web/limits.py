"""What the face allows its clients: connections, requests per second, answers with content. Beyond, a client waits, then is refused."""

import asyncio
import contextlib
import gc
import resource
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

import structlog

from registry_proxy.config import Server as Settings
from registry_proxy.errors import Overloaded, TooManyRequests
from registry_proxy.plan.limits import Crowd, Paces, TooFast, client_of
from registry_proxy.telemetry.metrics import Metrics

log = structlog.get_logger()

_BODY_PATIENCE: Final = 10.0
"""Seconds that a request waits for its body to be allowed."""

_TOLD_EVERY: Final = 60.0
"""Seconds between two log lines about connections refused."""


class Limits:
    """The limits of one face. ``crowd``: the open connections of all its listeners; ``bodies``: its answers with content."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.crowd = Crowd(0, 0)
        self._paces = Paces(1, 0)
        self.bodies = Bodies(0, 0, lambda: metrics.refused("body"))
        self._metrics = metrics
        self._refused = 0
        self._told = -_TOLD_EVERY
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        """Hold these limits from now on; what is under way already goes on."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.crowd.total, self.crowd.each = min(settings.connections, files // 2), settings.connections_per_client
        if self.crowd.total < settings.connections:
            log.info("limits.few_files", open_files=files, connections=self.crowd.total)
        self._paces.rate, self._paces.queue = settings.requests_per_client, settings.queue
        self.bodies.resize(settings.bodies, settings.queue)

    def enter(self, remote: str | None) -> bool:
        """A connection from this address has come; False if it must go. Who has entered leaves by ``crowd.leave``."""
        entered = self.crowd.enter(client_of(remote))
        if not entered:
            self._metrics.refused("connection")
            self._tell(remote)
        return entered

    def leave(self, remote: str | None) -> None:
        """A connection that had entered is closed."""
        self.crowd.leave(client_of(remote))

    def turn(self, remote: str | None) -> float:
        """Seconds that a request from this address has to wait for its turn; raises TooManyRequests."""
        client = client_of(remote)
        if client is None:
            return 0.0
        wait = self._paces.ask(client, monotonic())
        if isinstance(wait, TooFast):
            self._metrics.refused("rate")
            raise TooManyRequests("too many requests from this address", wait.retry_after)
        return wait

    def _tell(self, remote: str | None) -> None:
        self._refused += 1
        now = monotonic()
        if now - self._told >= _TOLD_EVERY:
            log.warning("limits.connections_refused", client=remote, refused=self._refused, open=self.crowd.open)
            self._told, self._refused = now, 0


class Bodies:
    """So many at the same time, each an ``async with``, and so many more may wait, first come, first served.

    Entering raises Overloaded, and calls ``refused``, if too many wait already or none is free in time.
    """

    def __init__(self, most: int, queue: int, refused: Callable[[], None]) -> None:
        self._most = most
        self._queue = queue
        self._refused = refused
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def resize(self, most: int, queue: int) -> None:
        """Other limits from now on."""
        self._most, self._queue = most, queue
        self._wake()

    async def __aenter__(self) -> None:
        if self._running < self._most and not self._waiting:
            self._running += 1
        elif not await self._waited():
            self._refused()
            raise Overloaded("too many downloads at the same time")

    async def __aexit__(self, *_: object) -> None:
        self._release()

    async def _waited(self) -> bool:
        """True when a turn has come; False if there is none to wait for, or none in time."""
        if len(self._waiting) >= self._queue:
            return False
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(_BODY_PATIENCE):
                await turn
        except TimeoutError:
            self._give_up(turn)
            return False
        except asyncio.CancelledError:
            self._give_up(turn)
            raise
        return True

    def _release(self) -> None:
        self._running -= 1
        self._wake()

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        if turn.cancelled():
            if turn in self._waiting:
                self._waiting.remove(turn)
        else:  # its turn had come just before
            self._release()

    def _wake(self) -> None:
        while self._waiting and self._running < self._most:
            turn = self._waiting.popleft()
            if not turn.done():
                self._running += 1
                turn.set_result(None)


def raise_open_files() -> None:
    """Let this process open as many files as it may, up to 65,536: most systems start it with 1,024 (its connections, and chunks)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # a system-call filter may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def calm_collector() -> None:
    """Look for garbage cycles less often: requests leave none, and looking for them took a tenth of a hit's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
