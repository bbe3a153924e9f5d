"""Clients that vanish, crawl, crowd and rave: others get right bytes, and the process stays as small as it is."""

import asyncio
import contextlib
import random
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from registry_proxy.config import Config, Server, Store, Upstream
from tests.fakes.instance import CHUNK, HOST, noise
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.faults.conftest import QUICKLY, right
from tests.faults.forked import Forked
from tests.interop.harness.process import free_port

DATA, BIG = noise(5 * CHUNK + 7, 1), noise(300 * CHUNK, 2)
CROWD = 5000
GROWTH = 200_000  # kB: what a crowd may cost. 5,000 connections take some 20 kB each
STALL = 3


@pytest.fixture
async def instance(tmp_path: Path, upstream: FakeUpstream) -> AsyncIterator[Forked]:
    """A process of its own, which drops who is silent, or takes nothing, for some seconds."""
    config = Config(
        store=Store(path=tmp_path / "store", limit=1 << 30, chunk_size=CHUNK),
        upstreams={HOST: Upstream(urls=(upstream.url,))},
        server=Server(listen=(f"127.0.0.1:{free_port()}",), drain=1, header_timeout=STALL, idle_timeout=STALL),
    )
    forked = Forked(config, tmp_path / "log")
    await asyncio.to_thread(forked.start)
    yield forked
    await asyncio.to_thread(forked.stop)


@pytest.fixture
def many_files() -> Iterator[None]:
    """This process may open enough files for a crowd."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CROWD + 500:
        pytest.fail(f"a crowd needs {CROWD + 500} open files; the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, CROWD + 500), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    async with asyncio.timeout(2 * QUICKLY):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_clients_that_vanish(instance: Forked, upstream: FakeUpstream) -> None:
    """Two hundred leave a cold download at all moments; one who stays has it, and nothing is left open."""
    big, small = upstream.add_blob(BIG), upstream.add_blob(DATA)
    assert await right(instance, small, DATA)
    dice = random.Random(1)

    async def leave() -> None:
        async with instance.wire() as wire:
            wire.send(f"/v2/{REPOSITORY}/blobs/{big}?ns={HOST}")
            if dice.random() < 0.8:
                await wire.head()
                await wire.reader.readexactly(dice.randrange(len(BIG) // 2))

    stays = asyncio.create_task(right(instance, big, BIG))
    await asyncio.gather(*(leave() for _ in range(200)))
    assert await stays
    assert upstream.most_often(big) == 1
    await until(lambda: instance.sockets() < 50)


async def test_clients_that_crawl(instance: Forked, upstream: FakeUpstream) -> None:
    """A hundred that take 1 kB and then nothing hold up nobody and cost no memory; they are dropped in the end."""
    big = upstream.add_blob(BIG)
    before = instance.status("VmRSS")
    async with contextlib.AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(instance.wire()) for _ in range(100)]
        for wire in wires:
            wire.send(f"/v2/{REPOSITORY}/blobs/{big}?ns={HOST}")
            await wire.head()
            await wire.reader.readexactly(1000)
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        assert await right(instance, big, BIG)
        assert instance.status("VmRSS") - before < GROWTH
        await until(lambda: instance.sockets() < 50)
        for wire in wires:
            wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
        ends = await asyncio.gather(*(rest(wire.reader) for wire in wires))
    assert all(end < len(BIG) for end in ends)


async def rest(reader: asyncio.StreamReader) -> int:
    """Bytes that still came before the connection ended, and how it did does not matter."""
    count = 1000
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            count += len(data)
            await asyncio.sleep(0)
    return count


async def test_a_crowd_of_connections(instance: Forked, upstream: FakeUpstream, many_files: None) -> None:
    """Five thousand that say nothing leave others alone, cost a bounded amount of memory, and are gone after their time."""
    small = upstream.add_blob(DATA)
    assert await right(instance, small, DATA)
    before = instance.status("VmRSS")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(CROWD // 100):
            await asyncio.gather(*(stack.enter_async_context(instance.wire()) for _ in range(100)))
        for _ in range(20):
            assert await right(instance, small, DATA)
        assert instance.status("VmRSS") - before < GROWTH
        await until(lambda: instance.sockets() < 50)
    assert await right(instance, small, DATA)


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
    b"\0" * 100_000,
    noise(100_000),
    b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    b"GET /v2/ HTTP/1.1\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
    b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"\r\n" * 50_000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


async def test_clients_that_send_garbage(instance: Forked, upstream: FakeUpstream) -> None:
    """Whatever it is, and a request that drips in a byte at a time: the connection ends, and nobody else notices."""
    small = upstream.add_blob(DATA)
    before = instance.status("VmRSS")

    async def rave(data: bytes) -> None:
        async with instance.wire() as wire:
            with contextlib.suppress(ConnectionError):
                wire.writer.write(data)
                await wire.writer.drain()
                await wire.reader.read(-1)

    async def drip() -> None:
        async with instance.wire() as wire:
            with contextlib.suppress(ConnectionError):
                for byte in b"GET /v2/ HTTP/1.1\r\nHost: " + b"x" * 10_000:
                    wire.writer.write(bytes([byte]))
                    await wire.writer.drain()
                    with contextlib.suppress(TimeoutError):
                        if not await asyncio.wait_for(wire.reader.read(1), 0.05):
                            return

    async with asyncio.timeout(2 * QUICKLY):
        ravers = asyncio.gather(*(rave(data) for data in GARBAGE * 5), *(drip() for _ in range(20)))
        for _ in range(20):
            assert await right(instance, small, DATA)
        await ravers
    assert instance.status("VmRSS") - before < GROWTH


async def test_a_second_request_that_drips(instance: Forked) -> None:
    """The deadline holds for later requests of a connection too: one that never ends its headers is closed."""
    async with asyncio.timeout(2 * QUICKLY), instance.wire() as wire:
        assert (await wire.ask("/v2/")).status == 200
        with contextlib.suppress(ConnectionError):
            wire.writer.write(b"GET /v2/ HTTP/1.1\r\n")
            while True:
                wire.writer.write(b"x")
                await wire.writer.drain()
                with contextlib.suppress(TimeoutError):
                    if not await asyncio.wait_for(wire.reader.read(1), 0.1):
                        break
