"""A slow link on loopback: a TCP relay with one rate for all its connections, a round-trip time, and counters.

    python -m loadtest.link --listen 127.0.0.1:7000 --to 127.0.0.1:5000 --rate 20MB --rtt 20ms --control 127.0.0.1:7001

What the upstream sends is shaped; requests are only delayed. A piece takes its turn at the token bucket, travels half a
round trip, is written to the client, and is acknowledged half a round trip later. A connection has no more than a window of
unacknowledged bytes, so the relay never takes from the upstream what the client does not take from the relay.

Whoever connects to the control address gets the counters as one JSON object.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from registry_proxy.config.units import parse_duration, parse_size

PIECE: Final = 64 * 1024  # most bytes that take one turn at the bucket: 3 ms of a 20 MB/s link
BURST: Final = 0.01  # seconds of the rate that an idle link saves up; it also makes up for timers that fire late
SOCKET_BUFFER: Final = 128 * 1024  # bytes, each of the kernel's buffers on the way
FIRST_WINDOW: Final = 14_600  # bytes, RFC 6928: ten segments
REMEMBERED: Final = 4096  # closed connections whose counters are kept apart; the totals count all
HostPort = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a link is like. ``rate``: bytes per second over all connections; ``rtt``: seconds.

    ``window``: most bytes on their way in one connection, reached by slow start from ten segments; None: twice what fills the
    link, from the start.
    """

    rate: float
    rtt: float = 0.0
    window: int | None = None

    @property
    def most(self) -> int:
        """Bytes that one connection may have on their way."""
        return self.window or int(2 * self.rate * (self.rtt + BURST)) + PIECE

    @property
    def first(self) -> int:
        """The window of a new connection, bytes."""
        return min(FIRST_WINDOW, self.window) if self.window else self.most


@dataclass(slots=True)
class Traffic:
    """What one connection has carried. ``down``: bytes written to the client; ``up``: bytes written to the upstream."""

    down: int = 0
    up: int = 0


@dataclass(slots=True)
class Counters:
    """What the link has carried since it began."""

    down: int = 0
    up: int = 0
    connections: int = 0
    open: int = 0
    last: deque[Traffic] = field(default_factory=lambda: deque(maxlen=REMEMBERED))


class Bucket:
    """Turns on the link, in the order in which they are asked for."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free = 0.0  # when the link will have sent everything that took its turn, loop time

    def reserve(self, count: int, now: float) -> float:
        """Take the next turn for ``count`` bytes; how long it takes from now, in seconds, until they have left."""
        self._free = max(self._free, now - BURST) + count / self._rate
        return max(self._free - now, 0.0)

    async def take(self, count: int) -> None:
        """Return once ``count`` bytes have left."""
        if wait := self.reserve(count, asyncio.get_running_loop().time()):
            await asyncio.sleep(wait)


class Window:
    """How many bytes of a connection may be on their way; it grows by what is acknowledged."""

    def __init__(self, first: int, most: int) -> None:
        self._now, self._most, self._sent = first, most, 0
        self._moved = asyncio.Event()

    async def room(self) -> int:
        """Bytes that may be sent now, at least one: waits for acknowledgements."""
        while self._sent >= self._now:
            self._moved.clear()
            await self._moved.wait()
        return self._now - self._sent

    def send(self, count: int) -> None:
        """Bytes are on their way."""
        self._sent += count

    def acknowledge(self, count: int) -> None:
        """Bytes have arrived, and the sender knows it."""
        self._sent -= count
        self._now = min(self._now + count, self._most)
        self._moved.set()


class Link:
    """A running relay. ``address``: where it listens; ``counters``: what it has carried."""

    def __init__(self, to: HostPort, shape: Shape) -> None:
        self.counters = Counters()
        self.address: HostPort = ("", 0)
        self._to, self._shape = to, shape
        self._bucket = Bucket(shape.rate)

    @contextlib.asynccontextmanager
    async def listening(self, at: HostPort = ("127.0.0.1", 0)) -> AsyncIterator["Link"]:
        """Relay until the end of the block, which cuts what still runs."""
        with socket.create_server(at, backlog=512) as server:
            _bounded(server)  # accepted sockets inherit the buffers
            server.setblocking(False)
            self.address = server.getsockname()[:2]
            task = asyncio.create_task(self._serve(server))
            try:
                yield self
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _serve(self, server: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                client, _ = await loop.sock_accept(server)
                group.create_task(self._connection(client))

    async def _connection(self, client: socket.socket) -> None:
        self.counters.connections += 1
        self.counters.open += 1
        traffic = Traffic()
        self.counters.last.append(traffic)
        try:
            with client, socket.socket() as upstream:
                await self._relay(client, upstream, traffic)
        except* OSError:
            pass  # either end went away: so does the other, for the sockets are closed now
        finally:
            self.counters.open -= 1

    async def _relay(self, client: socket.socket, upstream: socket.socket, traffic: Traffic) -> None:
        _bounded(upstream)
        for end in (client, upstream):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.sleep(self._shape.rtt)  # a connection costs one round trip before its first byte
        await asyncio.get_running_loop().sock_connect(upstream, self._to)

        def down(count: int) -> None:
            traffic.down += count
            self.counters.down += count

        def up(count: int) -> None:
            traffic.up += count
            self.counters.up += count

        async with asyncio.TaskGroup() as group:
            for way in (
                _Way(upstream, client, self._shape, self._bucket, down),
                _Way(client, upstream, self._shape, None, up),
            ):
                group.create_task(way.read())
                group.create_task(way.deliver())


class _Way:
    """One direction of a connection. ``bucket``: None where nothing is shaped; ``count`` hears of what was written."""

    def __init__(
        self,
        source: socket.socket,
        target: socket.socket,
        shape: Shape,
        bucket: Bucket | None,
        count: Callable[[int], None],
    ) -> None:
        self._source, self._target, self._bucket, self._count = source, target, bucket, count
        self._delay = shape.rtt / 2
        self._window = Window(shape.first, shape.most)
        self._pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()  # the window bounds it

    async def read(self) -> None:
        """Take bytes from the source as the window and the bucket allow, until its end."""
        loop = asyncio.get_running_loop()
        while piece := await loop.sock_recv(self._source, min(PIECE, await self._window.room())):
            self._window.send(len(piece))
            if self._bucket is not None:
                await self._bucket.take(len(piece))
            self._pieces.put_nowait((loop.time() + self._delay, piece))
        self._pieces.put_nowait((loop.time() + self._delay, b""))

    async def deliver(self) -> None:
        """Write each piece when it has travelled, and pass the end on."""
        loop = asyncio.get_running_loop()
        while True:
            due, piece = await self._pieces.get()
            await asyncio.sleep(max(due - loop.time(), 0))
            if not piece:
                self._target.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(self._target, piece)
            self._count(len(piece))
            loop.call_later(self._delay, self._window.acknowledge, len(piece))


def _bounded(end: socket.socket) -> None:
    """Keep the kernel from buffering more of a connection than it has to."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)


@contextlib.asynccontextmanager
async def telling(counters: Counters, at: HostPort | None) -> AsyncIterator[None]:
    """Give the counters to whoever connects to the control address, if there is one."""
    if at is None:
        yield
        return

    async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(_document(counters)).encode() + b"\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(tell, *at):
        yield


def _document(counters: Counters) -> dict[str, object]:
    return {**asdict(counters), "last": [asdict(traffic) for traffic in counters.last]}


def ask(control: HostPort, seconds: float = 5.0) -> dict[str, Any]:
    """The counters of a link in another process; raises OSError."""
    with socket.create_connection(control, timeout=seconds) as connection, connection.makefile("rb") as answer:
        return dict(json.loads(answer.read()))


def host_port(text: str) -> HostPort:
    """``127.0.0.1:5000`` taken apart; raises ValueError."""
    host, _, port = text.rpartition(":")
    return host or "127.0.0.1", int(port)


async def run(listen: HostPort, to: HostPort, shape: Shape, control: HostPort | None) -> Counters:
    """Relay until SIGTERM or SIGINT; what was carried."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    link = Link(to, shape)
    async with link.listening(listen), telling(link.counters, control):
        await stop.wait()
    return link.counters


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line, relay, and print the counters at the end."""
    parser = argparse.ArgumentParser(
        prog="loadtest.link", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--listen", type=host_port, required=True, metavar="HOST:PORT")
    parser.add_argument("--to", type=host_port, required=True, metavar="HOST:PORT")
    parser.add_argument("--rate", type=parse_size, required=True, help="bytes per second, all connections: 20MB")
    parser.add_argument("--rtt", type=parse_duration, default=0.0, help="round-trip time: 20ms")
    parser.add_argument("--window", type=parse_size, help="most bytes on their way per connection, by slow start: 1MiB")
    parser.add_argument("--control", type=host_port, metavar="HOST:PORT", help="where the counters are told")
    given = parser.parse_args(words)
    shape = Shape(float(given.rate), float(given.rtt), given.window)
    print(json.dumps(_document(asyncio.run(run(given.listen, given.to, shape, given.control)))))


if __name__ == "__main__":
    main()
