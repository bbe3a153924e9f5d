"""A server's way to the fetcher: calls over connections that are kept, and waiting while the fetcher is started again."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

import structlog

from registry_proxy.errors import NotSoon, RegistryProxyError, UpstreamUnreachable
from registry_proxy.net.hops import HOPS
from registry_proxy.telemetry.logs import REQUEST
from registry_proxy.workers import calls
from registry_proxy.workers.calls import Asked, Call, Hello, Message
from registry_proxy.workers.wire import Wire, WireLost

_log = structlog.get_logger()

T = TypeVar("T", bound=Message)

_IDLE: Final = 64
"""Connections that are kept between calls."""

_LONGEST: Final = 150.0
"""Seconds for one answer: longer than anything that the fetcher waits for itself."""

_PAUSE: Final = 0.05
"""Seconds between two attempts."""

_BACK: Final = 2.0
"""Seconds after which a client that was kept waiting in vain may come back."""


class Line:
    """The way to the fetcher that listens at ``path``. ``patience``: seconds that a call waits for a fetcher to be there.

    ``renewed``: called when another fetcher than before answers: what the last one said does not hold any more.
    ``away``: the fetcher did not answer when it was last asked.
    """

    def __init__(self, path: str, patience: float) -> None:
        self.renewed: list[Callable[[], None]] = []
        self.away = False
        self._path = path
        self._patience = patience
        self._idle: list[Wire] = []
        self._open: set[Wire] = set()
        self._fetcher: str | None = None

    async def ask(self, call: Call, kind: type[T]) -> T:
        """The answer to a call; asks again if the fetcher dies meanwhile. Raises what the fetcher says, or NotSoon."""
        wire, answer = await self.begin(call, kind)
        self.keep(wire)
        return answer

    async def close(self) -> None:
        """Close every connection."""
        for wire in list(self._open):
            self.drop(wire)
            await wire.until_lost()

    async def begin(self, call: Call, kind: type[T]) -> tuple[Wire, T]:
        """The connection, for what follows, and the first answer to a call. The caller gives it back by ``keep`` or ``drop``."""
        message = calls.pack(Asked(call, REQUEST.get(), HOPS.get()))
        now = asyncio.get_running_loop().time
        until = now() + self._patience
        while True:
            try:
                return await self._attempt(message, kind, until)
            except (WireLost, OSError) as error:
                self._miss(str(error))
                if now() > until:
                    raise _nobody() from None
            await asyncio.sleep(_PAUSE)
            until = max(until, now())

    def keep(self, wire: Wire) -> None:
        """The connection is at rest: the next call may have it."""
        if wire.lost or len(self._idle) >= _IDLE:
            self.drop(wire)
        else:
            self._idle.append(wire)

    def drop(self, wire: Wire) -> None:
        """The connection is in the middle of something: close it, and the fetcher gives up what it does."""
        self._open.discard(wire)
        wire.close()

    async def _attempt(self, message: bytes, kind: type[T], until: float) -> tuple[Wire, T]:
        """One attempt; raises WireLost or OSError if there is no fetcher, and what the fetcher says."""
        wire = self._kept() or await self._connected(until)
        try:
            wire.send(message)
            answer = await receive(wire, kind)
        except RegistryProxyError:
            self.keep(wire)
            raise
        except BaseException:
            self.drop(wire)
            raise
        return wire, answer

    async def _connected(self, until: float) -> Wire:
        """A new connection, with a fetcher behind it. Raises NotSoon if there is none by then, or OSError."""
        _, wire = await asyncio.get_running_loop().create_unix_connection(Wire, self._path)
        self._open.add(wire)
        try:
            async with asyncio.timeout_at(until):
                hello = await receive(wire, Hello)
        except TimeoutError:
            self.drop(wire)
            self._miss("no word from it")
            raise _nobody() from None
        except BaseException:
            self.drop(wire)
            raise
        self._meet(hello.fetcher)
        return wire

    def forget(self) -> None:
        """What the fetcher has said so far does not hold any more."""
        for tell in self.renewed:
            tell()

    def _meet(self, fetcher: str) -> None:
        self.away = False
        if fetcher != self._fetcher:
            self._fetcher = fetcher
            self.forget()

    def _miss(self, error: str) -> None:
        if not self.away:
            self.away = True
            _log.warning("fetcher.away", error=error)

    def _kept(self) -> Wire | None:
        while self._idle:
            wire = self._idle.pop()
            if not wire.lost:
                return wire
            self._open.discard(wire)
        return None


async def receive(wire: Wire, kind: type[T]) -> T:
    """The next thing the fetcher says. Raises WireLost, what the fetcher says has failed, and UpstreamUnreachable if it says nothing.

    Then the connection is closed: what the fetcher may still say there would be taken for the answer to the next call.
    """
    try:
        async with asyncio.timeout(_LONGEST):
            answer = calls.told(await wire.receive())
    except TimeoutError:
        wire.close()
        raise UpstreamUnreachable(f"the fetcher did not answer within {_LONGEST:.0f} s") from None
    if not isinstance(answer, kind):
        raise TypeError(f"{type(answer).__name__} where {kind} was to come")
    return answer


def _nobody() -> NotSoon:
    return NotSoon("the process that fetches is being started again", retry_after=_BACK)
