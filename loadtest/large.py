"""What size costs: memory with a thousand connections on one large blob, and the start of an instance with a million chunks.

    python -m loadtest.large [--only memory] [--only start] [--seconds 30] [--chunks 1000000]

Memory: a cold blob of 10 GiB behind a ranged upstream; nine hundred clients read ranges of 512 MiB at 64 KiB/s, a hundred as
fast as they can. Start: a store whose accounts are lost as well, so that they have to be made from the files while it serves; the files are
sparse. Peers: distribution 2.8 serves the same blob to the same clients from its own disk, hot; the start of a bare Python with
aiohttp.
"""

import argparse
import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import aiohttp

from loadtest import kept, table
from loadtest.hits_peers import distribution_server
from loadtest.noise import PERIOD, Noise
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import MIB
from registry_proxy.tiers.layout import GROUP
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.interop.harness.proxy import SOURCE, Proxy, registry_proxy

SIZE: Final = 10 << 30
CONNECTIONS: Final = 1000
FAST: Final = 100
SLOW_RATE: Final = 64 * 1024  # bytes per second
PLACES: Final = 8  # where ranges begin: readers share them, as jobs of one image do
RANGE: Final = 512 * MIB
MEMORY: Final = 200 * MIB
START: Final = 1.0  # seconds


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured thing beside its target and a peer's. ``value``, ``limit``, ``peer``: in ``unit``."""

    what: str
    value: float
    limit: float
    peer: float
    unit: str


async def crowd(url: str, seconds: float) -> int:
    """Slow and fast readers of random ranges, for so long; bytes that came."""
    until, count = time.monotonic() + seconds, 0
    timeout = aiohttp.ClientTimeout(total=None, sock_read=120)
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session,
        asyncio.TaskGroup() as group,
    ):

        async def read(number: int) -> None:
            nonlocal count
            dice = random.Random(number)
            while time.monotonic() < until:
                start = dice.randrange(PLACES) * (SIZE // PLACES)
                headers = {"Range": f"bytes={start}-{start + RANGE - 1}", "Accept-Encoding": "identity"}
                async with session.get(url, headers=headers) as answer:
                    answer.raise_for_status()
                    while time.monotonic() < until and (data := await answer.content.readany()):
                        count += len(data)
                        if number >= FAST:
                            await asyncio.sleep(len(data) / SLOW_RATE)
                    answer.close()

        for number in range(CONNECTIONS):
            group.create_task(read(number))
    return count


def most_memory(pid: int) -> int:
    """The most bytes that a process has had."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


async def memory(seconds: float, work: Path) -> Figure:
    """The proxy with a thousand readers of a cold blob; a registry with the same readers of a blob on its disk."""
    async with FakeUpstream() as upstream:
        blob = Noise(SIZE, 11)
        digest = await asyncio.to_thread(blob.digest)
        upstream.content[digest] = blob  # type: ignore[assignment]  # all that the fake asks of bytes
        upstream.members.add((REPOSITORY, digest))
        with registry_proxy(work / "proxy", {SOURCE: upstream.url}, "--store-limit=12GiB") as proxy:
            got = await crowd(f"{proxy.url}/v2/{REPOSITORY}/blobs/{digest}?ns={SOURCE}", seconds)
            own = most_memory(proxy.process.popen.pid)
    kept.say(f"{CONNECTIONS} connections: {got / 1e6:.0f} MB in {seconds:.0f} s")
    with distribution_server(work, digest, SIZE, "library/large") as (url, pid):
        await crowd(url, min(seconds, 10))
        peer = most_memory(pid)
    return Figure(
        f"peak memory, {CONNECTIONS} connections on a cold blob of 10 GiB", own / MIB, MEMORY / MIB, peer / MIB, "MiB"
    )


def fill(chunks: Path, count: int) -> None:
    """So many chunk files, sparse, 64 to a group."""
    dice = random.Random(5)
    for _ in range(-(-count // GROUP)):
        name = f"{dice.getrandbits(256):064x}"
        group = chunks / name[:2] / name / "0"
        group.mkdir(parents=True)
        directory = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
        for index in range(GROUP):
            descriptor = os.open(str(index), os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=directory)
            os.ftruncate(descriptor, MIB + 32)
            os.close(descriptor)
        os.close(directory)


async def start(count: int, work: Path) -> list[Figure]:
    """From the start of the program to the first blob served, without and with accounts."""
    data = Noise(PERIOD, 3)[:]
    async with FakeUpstream() as upstream:
        digest = upstream.add_blob(data)
        with registry_proxy(work, {SOURCE: upstream.url}, "--store-limit=4TiB") as proxy:
            await _first(proxy, digest, data)
            proxy.process.stop()
            fill(proxy.store / "chunks", count)
            kept.say(f"{count} chunks made")
            for database in proxy.store.glob("records*"):
                shutil.rmtree(database, ignore_errors=True)
            lost = await _started(proxy, digest, data)
            proxy.process.signal(signal.SIGTERM)
            await asyncio.to_thread(proxy.process.stop)
            there = await _started(proxy, digest, data)
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import aiohttp.web"], check=True)
    bare = time.perf_counter() - began
    return [
        Figure(f"start to first blob, {count:,} chunks, accounts lost", lost, START, bare, "s"),
        Figure(f"start to first blob, {count:,} chunks", there, START, bare, "s"),
    ]


async def _started(proxy: Proxy, digest: Digest, data: bytes) -> float:
    began = time.perf_counter()
    await asyncio.to_thread(proxy.start)
    await _first(proxy, digest, data)
    return time.perf_counter() - began


async def _first(proxy: Proxy, digest: Digest, data: bytes) -> None:
    async with (
        aiohttp.ClientSession(proxy.url) as session,
        session.get(f"/v2/{REPOSITORY}/blobs/{digest}?ns={SOURCE}") as answer,
    ):
        if await answer.read() != data:
            raise RuntimeError("wrong bytes")


def report(figures: Sequence[Figure]) -> str:
    """Each figure beside its target and a peer's."""
    rows = [
        (one.what, f"{one.value:.2f} {one.unit}", "ok" if one.value <= one.limit else "MISSED", f"{one.limit:g}",
         f"{one.peer:.2f}", f"{one.value / one.peer:.2f}")
        for one in figures
    ]  # fmt: skip
    return table.markdown(("figure", "measured", "", "target", "peer", "ratio"), rows)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, keep, print; the exit status says whether every target was met."""
    parser = argparse.ArgumentParser(
        prog="loadtest.large", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=["memory", "start"])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    given = parser.parse_args(words)
    figures: list[Figure] = []
    for what in given.only or ["memory", "start"]:
        with tempfile.TemporaryDirectory(prefix="large-", ignore_cleanup_errors=True) as name:
            if what == "memory":
                figures.append(asyncio.run(memory(given.seconds, Path(name))))
            else:
                figures += asyncio.run(start(given.chunks, Path(name)))
    kept.keep("large", {}, [asdict(one) for one in figures])
    text = report(figures)
    print(text)
    return int("MISSED" in text)


if __name__ == "__main__":
    sys.exit(main())
