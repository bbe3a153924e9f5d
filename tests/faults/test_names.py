"""Name servers that say nothing, or that something is wrong with them: for real, before a process of its own."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from registry_proxy.plan.chunks import Span
from tests.fakes.instance import CHUNK, HOST, noise
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.fakes.wire import Wire
from tests.faults.conftest import QUICKLY, right
from tests.interop.harness.process import Process, answers, free_port

ADDRESS = f"127.77.{os.getpid() >> 8 & 255}.{os.getpid() & 255 | 1}"
DARK = "registry.dark.example"
DATA, COLD = noise(3 * CHUNK + 5, 1), noise(2 * CHUNK, 2)
ASKING = 20

CONFIG = """
[server]
listen = ["127.0.0.1:{port}"]
[store]
path = "{store}"
[upstream."{host}"]
urls = ["{url}"]
[upstream."dark.example"]
urls = ["http://{dark}:{dark_port}"]
timeouts = {{ connect = 2, header = 2 }}
"""


def says_nothing(query: bytes) -> bytes:
    """No answer at all."""
    return b""


def is_broken(query: bytes) -> bytes:
    """SERVFAIL (RFC 1035 §4.1.1)."""
    return query[:2] + b"\x81\x82" + query[4:]


def knows(query: bytes) -> bytes:
    """127.0.0.1 for every name, and no IPv6 address."""
    question = query[12 : query.index(0, 12) + 5]
    is_a = question[-4:] == b"\0\x01\0\x01"
    head = query[:2] + b"\x81\x80\0\x01" + (b"\0\x01" if is_a else b"\0\0") + bytes(4)
    return head + question + (b"\xc0\x0c\0\x01\0\x01" + bytes(4) + b"\0\x04\x7f\0\0\x01" if is_a else b"")


class NameServer:
    """A name server; ``answer``: what it says to a query, empty for nothing."""

    def __init__(self) -> None:
        self.answer: Callable[[bytes], bytes] = knows
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind((ADDRESS, 53))
        asyncio.get_running_loop().add_reader(self._socket, self._serve)

    def close(self) -> None:
        """Nobody listens any more."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _serve(self) -> None:
        query, client = self._socket.recvfrom(4096)
        if said := self.answer(query):
            self._socket.sendto(said, client)


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    """A name server that knows every name."""
    if os.geteuid():
        pytest.skip("needs the right to mount, and to listen on port 53")
    with closing(NameServer()) as server:
        yield server


class Instance:
    """A process of its own that asks this name server."""

    def __init__(self, upstream: FakeUpstream, directory: Path) -> None:
        self.port = free_port()
        dark = upstream.url.rpartition(":")[2]
        config, resolv = directory / "config.toml", directory / "resolv.conf"
        config.write_text(
            CONFIG.format(
                port=self.port, store=directory / "store", host=HOST, url=upstream.url, dark=DARK, dark_port=dark
            )
        )
        resolv.write_text(f"nameserver {ADDRESS}\n")
        asks = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        own = ("unshare", "--mount", "--propagation", "private", "sh", "-c", asks, resolv)
        serve = (sys.executable, "-m", "registry_proxy", "serve", "--config", config)
        self.process = Process("registry-proxy", (*own, *serve), directory)

    def wire(self) -> Wire:
        """A connection to it."""
        return Wire(("127.0.0.1", self.port))

    async def start(self) -> None:
        """Wait until it answers."""
        url = f"http://127.0.0.1:{self.port}/v2/"
        await asyncio.to_thread(self.process.ready_when, lambda: answers(url))

    async def manifest(self, repository: str) -> int:
        """The status of a manifest whose upstream has a name."""
        async with asyncio.timeout(QUICKLY), self.wire() as wire:
            return (await wire.ask(f"/v2/{repository}/manifests/v1?ns=dark.example")).status


@pytest.fixture
async def instance(names: NameServer, upstream: FakeUpstream, tmp_path: Path) -> AsyncIterator[Instance]:
    """One that is ready."""
    instance = Instance(upstream, tmp_path)
    try:
        await instance.start()
        yield instance
    finally:
        await asyncio.to_thread(instance.process.stop)


@pytest.mark.parametrize("trouble", [says_nothing, is_broken], ids=lambda trouble: trouble.__name__)
async def test_a_name_server_in_trouble(
    instance: Instance, names: NameServer, upstream: FakeUpstream, trouble: Callable[[bytes], bytes]
) -> None:
    """Many who want what only a name leads to are told soon; hits and other upstreams do not notice; all is well again by itself."""
    upstream.add_image(tag="v1")
    warm, cold = upstream.add_blob(DATA), upstream.add_blob(COLD)
    assert await right(instance, warm, DATA)
    names.answer = trouble
    asking = [asyncio.create_task(instance.manifest(f"a/{number}")) for number in range(ASKING)]
    for _ in range(3):
        assert await right(instance, warm, DATA)
        assert await right(instance, warm, DATA, Span(CHUNK - 5, CHUNK + 5))
    assert await right(instance, cold, COLD)
    assert set(await asyncio.gather(*asking)) == {502}
    names.answer = knows
    async with asyncio.timeout(QUICKLY):
        while await instance.manifest(REPOSITORY) != 200:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.05)
