"""What the faults work on: an upstream, a small disk, and the instance as a process of its own."""

import asyncio
import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.chaos.truth import LARGEST, Tally, Truth
from loadtest.kept import say
from tests.fakes.upstream import FakeUpstream
from tests.interop.harness.process import Failure, call
from tests.interop.harness.proxy import SOURCE, Proxy

LIMIT: Final = 5 * LARGEST
"""Bytes of the store: less than half of what the clients ask for, so that it evicts all the time."""

DISK: Final = 3 * LIMIT

STARTS: Final = 15.0
"""Seconds in which an instance of several processes must be there again."""

_CONFIG = """
default_upstreams = false

[store]
limit = {limit}
chunk_size = "64KiB"

[server]
workers = {workers}
idle_timeout = "20s"
header_timeout = "5s"
drain = "3s"

[policy]
tag_fresh = "1s"
slow = "1s"
patience = "10s"

[upstream."{source}"]
urls = ["{url}"]
connections = 32

[upstream."{source}".timeouts]
connect = "2s"
header = "3s"
idle = "3s"
"""


@dataclass
class World:
    """``disk``: where the store lies; ``mounted``: it is a file system of its own, which may fill and become read-only.

    ``workers``: as configured.
    """

    upstream: FakeUpstream
    truth: Truth
    tally: Tally
    proxy: Proxy
    disk: Path
    mounted: bool
    dice: random.Random
    workers: int = 1

    @property
    def store(self) -> Path:
        """The store's directory."""
        return self.proxy.store

    async def kill(self, *, children: bool = True) -> None:
        """SIGKILL: for all of its processes, or for the one that the service manager has started alone."""
        those = self.children() if children and self.workers > 1 else ()
        await asyncio.to_thread(self.proxy.process.kill)
        for child in those:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.truth.ended()

    async def stop(self) -> None:
        """SIGTERM."""
        await asyncio.to_thread(self.proxy.process.stop)
        self.truth.ended()

    async def start(self) -> None:
        """Start it again, as a service manager would, and wait until it answers; raises Failure.

        Several processes whose first was killed finish their answers before they let go of the port.
        """
        deadline = time.monotonic() + STARTS
        while True:
            try:
                await asyncio.to_thread(self.proxy.start)
            except Failure:
                if time.monotonic() > deadline or self.workers == 1:
                    raise
            else:
                return
            self.tally.faults["  start refused"] += 1
            await asyncio.sleep(0.5)

    async def remount(self, how: str) -> None:
        """Read-only (``ro``) or not (``rw``), as soon as the last process that was killed is really gone; raises Failure."""
        deadline = time.monotonic() + STARTS
        while subprocess.run(
            ["mount", "-o", f"remount,{how}", str(self.disk)], check=False, capture_output=True
        ).returncode:
            if time.monotonic() > deadline:
                raise Failure(f"the disk is still busy {STARTS:.0f} s after everything was killed")
            await asyncio.sleep(0.2)

    def children(self) -> list[int]:
        """The processes that the instance has started, if it has."""
        pid = self.proxy.process.popen.pid
        try:
            return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
        except OSError:
            return []

    def memory(self) -> int:
        """Bytes that the largest process of the instance has in memory; 0 while none runs."""
        return max(map(_resident, (self.proxy.process.popen.pid, *self.children())))

    async def stats(self) -> dict[str, int]:
        """What ``/stats`` says of the store."""
        return dict(json.loads(await asyncio.to_thread(_fetch, f"{self.proxy.url}/stats"))["store"])

    async def verify(self) -> dict[str, int]:
        """What ``registry-proxy verify`` finds; raises Failure if it cannot."""
        words = (sys.executable, "-m", "registry_proxy", "verify", "--json", "--store", str(self.store))
        return dict(json.loads(await asyncio.to_thread(call, *words)))


def _resident(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = [line for line in text.splitlines() if line.startswith("VmRSS")]
    return int(found[0].split()[1]) * 1024 if found else 0


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[bool]:
    """A file system of ``DISK`` bytes there; False where this process may not mount: then it is a directory like others."""
    directory.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "chaos", str(directory)]
    mounted = os.geteuid() == 0 and subprocess.run(words, check=False).returncode == 0
    if not mounted:
        say("no right to mount: the disk will neither fill nor become read-only")
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(directory)], check=False)


@contextlib.asynccontextmanager
async def world(directory: Path, seed: int, workers: int = 1) -> AsyncIterator[World]:
    """Everything, running."""
    disk = directory / "disk"
    with small_disk(disk) as mounted:
        async with FakeUpstream() as upstream:
            truth, tally = Truth(upstream, seed), Tally()
            config = directory / "proxy.toml"
            config.write_text(
                _CONFIG.format(limit=LIMIT, source=SOURCE, url=upstream.url, workers=workers), encoding="utf-8"
            )
            start = functools.partial(Proxy, directory, {}, "--config", config, store=disk / "store")
            proxy = await asyncio.to_thread(start)
            try:
                yield World(upstream, truth, tally, proxy, disk, mounted, random.Random(seed), workers)
            finally:
                await asyncio.to_thread(proxy.process.stop)
