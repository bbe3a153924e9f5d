"""Writes the promised bytes to one connection, and nothing else: after headers, success is exactly the promised length.

Large pieces that lie in a file as they are go by sendfile; small ones are gathered and go by one write, at the latest when the
answer has to wait for its next piece. ``loop.sendfile`` returns less than it was asked for on a short file, without an error,
and the next answer would become part of this body: so every count is compared, and any difference cuts the connection.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from aiohttp import web

from registry_proxy.pull.pieces import Piece
from registry_proxy.web.answer import Sent
from registry_proxy.web.exchange import ClientGone, Exchange
from registry_proxy.web.heart import Reader
from registry_proxy.web.outline import Outline

SENDFILE_FROM: Final = 256 << 10
"""Bytes from which sendfile is cheaper than a write (measured: 74 µs against 31 to 49 for 64 KiB, a quarter for 1 MiB)."""

STEP: Final = 1 << 20
"""Bytes sent at most under one deadline: a client must take so many in the ``stall`` time, or more in small pieces."""

LAST: Final = 16 << 10
"""Bytes at the end of an answer that are held back until it is certain that the rest was right."""

_GATHERED: Final = 64 << 10
_WRITE_STEP: Final = 256 << 10


class BodyShort(Exception):
    """A tier delivered other than what was promised. A mistake of ours or a damaged file; never the client's."""


async def send(exchange: Exchange, outline: Outline, reader: Reader, stall: float) -> Sent:
    """Send headers and body; on a failure the connection is cut, unless nothing has been sent yet.

    Raises ClientGone if the client leaves or takes nothing for ``stall`` seconds, and whatever the reader raises.
    """
    head, response = exchange.begin(exchange.outlined(outline.status, outline.headers, outline.length))
    outbox = Outbox(exchange.request, stall, len(head) + (outline.length or 0))
    try:
        outbox.gather(head)
        for index in range(len(outline.parts)):
            if outline.frames is not None:
                outbox.gather(outline.frames.heads[index])
            await _send_span(exchange, outbox, reader.pieces(index))
        if outline.frames is not None:
            outbox.gather(outline.frames.tail)
        await outbox.flush()
        if outbox.sent != outbox.promised:
            raise BodyShort(f"{outbox.sent} bytes sent of {outbox.promised} promised")
    except BaseException as error:
        if isinstance(error, Exception) and not outbox.sent:
            outbox.discard()
            exchange.take_back()
        else:
            exchange.abort()
        raise
    return response


async def _send_span(exchange: Exchange, outbox: "Outbox", pieces: AsyncGenerator[Piece, None]) -> None:
    async with aclosing(pieces):
        async for piece in pieces:
            await outbox.send(piece)
            exchange.count(piece.tier, len(piece))


class Outbox:
    """One connection's way out. ``promised``: bytes of the answer, headers and all; ``sent``: bytes given to the connection."""

    def __init__(self, request: web.BaseRequest, stall: float, promised: int) -> None:
        self.promised = promised
        self.sent = 0
        self._protocol = request.protocol
        self._writer = request.writer
        self._loop = asyncio.get_running_loop()
        self._stall = stall
        self._gathered: list[bytes] = []
        self._held = 0
        self._sendfile = hasattr(os, "sendfile") and self._transport().get_extra_info("sslcontext") is None

    async def send(self, piece: Piece) -> None:
        """Send a piece, by the cheapest way for its size. Raises BodyShort if it is not what it was any more, before the answer is whole."""
        rest = piece.start
        if self._sendfile and piece.chunk.file is not None and len(piece) >= SENDFILE_FROM:
            await self.flush()
            rest = piece.stop - LAST if self.sent + len(piece) == self.promised else piece.stop
            for start in range(piece.start, rest, STEP):
                await self._send_file(piece, start, min(start + STEP, rest))
                _check(piece)
        for start in range(rest, piece.stop, _WRITE_STEP):
            data = piece.chunk.read(start, min(start + _WRITE_STEP, piece.stop))
            _check(piece)
            self.gather(data)
            if self._held >= _GATHERED:
                await self.flush()

    def gather(self, data: bytes) -> None:
        """Take bytes; they go with the next ones, but not later than when the task has to wait for something."""
        if not self._gathered:
            self._loop.call_soon(self._write_gathered)
        self._gathered.append(data)
        self._held += len(data)

    def discard(self) -> None:
        """Drop what is gathered."""
        self._gathered.clear()
        self._held = 0

    async def flush(self) -> None:
        """Write what is gathered, and wait until the client has taken enough of it; raises ClientGone."""
        self._transport()
        self._write_gathered()
        if self._protocol.writing_paused:
            try:
                async with asyncio.timeout(self._stall):
                    await self._writer.drain()
            except (ConnectionError, TimeoutError) as error:
                raise ClientGone("the client took nothing more") from error

    def _write_gathered(self) -> None:
        transport = self._protocol.transport
        if self._gathered and transport is not None and not transport.is_closing():
            transport.write(self._gathered[0] if len(self._gathered) == 1 else b"".join(self._gathered))
            self.sent += self._held
            self.discard()

    async def _send_file(self, piece: Piece, start: int, stop: int) -> None:
        file = piece.chunk.file
        assert file is not None  # noqa: S101  # the caller asked
        sent = self._send_now(file.fileno(), start, stop)
        self.sent += sent
        start += sent
        if start == stop:
            await asyncio.sleep(0)  # others have their turn
            return
        try:
            async with asyncio.timeout(self._stall):
                sent = await self._loop.sendfile(self._transport(), file, start, stop - start, fallback=False)
        except (ConnectionError, TimeoutError) as error:
            raise ClientGone("the client took nothing more") from error
        except asyncio.SendfileNotAvailableError as error:  # asyncio's word for any failure before the first byte
            if isinstance(error.__cause__, ConnectionError):
                raise ClientGone("the client closed the connection") from error
            raise BodyShort(f"a chunk's file cannot be sent: {error.__cause__}") from error
        self.sent += sent
        if sent != stop - start:
            raise BodyShort(f"a chunk's file gave {sent} bytes of {stop - start}")

    def _send_now(self, file: int, start: int, stop: int) -> int:
        """What the socket takes at once, in bytes; asyncio's way costs several times as much as the call itself. Raises ClientGone."""
        transport = self._transport()
        if transport.get_write_buffer_size():
            return 0
        try:
            return os.sendfile(transport.get_extra_info("socket").fileno(), file, start, stop - start)
        except BlockingIOError:
            return 0
        except ConnectionError as error:
            raise ClientGone("the client closed the connection") from error
        except OSError as error:
            raise BodyShort(f"a chunk's file cannot be sent: {error}") from error

    def _transport(self) -> asyncio.Transport:
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise ClientGone("the client closed the connection")
        return transport


def _check(piece: Piece) -> None:
    """A client that is slow may take minutes for a chunk, and what was checked before may have been written to."""
    if not piece.chunk.same_bytes():
        raise BodyShort("somebody has written to a chunk's file while it was sent")
