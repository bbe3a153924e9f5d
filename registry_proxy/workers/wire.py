"""Whole messages both ways over a Unix socket: four bytes of length, then so many bytes.

Both ends are processes of one instance. They take turns, so that what waits to be sent or read is never more than a message or two.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

LONGEST: Final = 32 << 20
"""Bytes of a message: the largest chunk that can be configured, and what belongs to it."""

_LENGTH: Final = 4
_WAITING: Final = 8
"""Messages that may lie here unread before the other end has to wait."""


class WireLost(ConnectionError):
    """The other end is gone."""


class Wire(asyncio.Protocol):
    """One connection. ``met``: called when it stands. One task receives at a time."""

    def __init__(self, met: "Callable[[Wire], None] | None" = None) -> None:
        self._met = met
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._messages: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._gone = asyncio.get_running_loop().create_future()

    @property
    def lost(self) -> bool:
        """True once the other end is gone, or this one was closed."""
        return self._gone.done() or (self._transport is not None and self._transport.is_closing())

    def when_lost(self, tell: Callable[[], object]) -> None:
        """Call this once the other end is gone."""
        self._gone.add_done_callback(lambda _: tell())

    async def until_lost(self) -> None:
        """Wait until the other end is gone."""
        await asyncio.shield(self._gone)

    def send(self, message: bytes) -> None:
        """Send a message; if the other end is gone, that shows at the next ``receive``."""
        if self._transport is not None and not self.lost:
            self._transport.write(len(message).to_bytes(_LENGTH, "big") + message)

    async def receive(self) -> bytes:
        """The next message; raises WireLost."""
        while not self._messages:
            if self.lost:
                raise WireLost("the other process is gone")
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        if len(self._messages) == _WAITING - 1 and self._transport is not None and not self.lost:
            self._transport.resume_reading()
        return message

    async def finish(self) -> None:
        """Close it once everything is sent."""
        if self._transport is not None:
            self._transport.close()
            await self.until_lost()

    def close(self) -> None:
        """Close it, at once; nothing more is received."""
        self._messages.clear()
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        if self._met is not None:
            self._met(self)

    def data_received(self, data: bytes) -> None:
        """More bytes."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _LENGTH:
            stop = _LENGTH + int.from_bytes(buffer[:_LENGTH], "big")
            if stop > _LENGTH + LONGEST:
                self.close()
                return
            if len(buffer) < stop:
                break
            self._messages.append(bytes(memoryview(buffer)[_LENGTH:stop]))
            del buffer[:stop]
        if len(self._messages) >= _WAITING and self._transport is not None:
            self._transport.pause_reading()
        if self._messages:
            self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The other end is gone, or this one was closed."""
        if not self._gone.done():
            self._gone.set_result(None)
        self._news.set()
