"""The faults: each is a coroutine that breaks something, and mends it again before it returns."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from loadtest.chaos.world import World
from loadtest.kept import say
from tests.fakes import powercut
from tests.fakes.faults import (
    BodyFault,
    Chunked,
    Cut,
    Encoded,
    Endless,
    Garbled,
    Gate,
    LoginPage,
    Long,
    Short,
    WrongRange,
)

Fault = Callable[[World], Awaitable[None]]

SHORT, LONG = 0.3, 4.0  # seconds that a fault lasts
CROWD: Final = 500

_STATUSES: Final = (401, 403, 404, 408, 416, 429, 500, 502, 503, 504)
_BODIES: Final[tuple[BodyFault, ...]] = (
    Cut(100_000),
    Cut(1),
    Short(10),
    Long(10),
    Endless(),
    Garbled(),
    Garbled(),
    WrongRange("bytes 7-9/1000"),
    Encoded(),
    Chunked(),
    LoginPage(),
)


async def _while(world: World) -> None:
    await asyncio.sleep(world.dice.uniform(SHORT, LONG))


# --- the upstream ---------------------------------------------------------------------------------------------------------


async def upstream_refuses(world: World) -> None:
    """No connection."""
    await world.upstream.stop()
    try:
        await _while(world)
    finally:
        await world.upstream.come_back()


async def upstream_silent(world: World) -> None:
    """Connections are taken, requests not answered."""
    events = [world.upstream.hold(kind) for kind in ("blob", "manifest")]
    await _while(world)
    world.upstream.heal()
    for event in events:
        event.set()


async def upstream_drops(world: World) -> None:
    """Closed connections instead of answers."""
    world.upstream.drop("blob")
    world.upstream.drop("manifest")
    await _while(world)
    world.upstream.heal()


async def upstream_status(world: World) -> None:
    """Some status instead of an answer."""
    status = world.dice.choice(_STATUSES)
    world.tally.faults[f"  status {status}"] += 1
    world.upstream.fail(
        world.dice.choice(("blob", "manifest")), status, headers={"Retry-After": "1"} if status == 429 else {}
    )
    await _while(world)
    world.upstream.heal()


async def upstream_redirect_loop(world: World) -> None:
    """Redirects for ever."""
    path = f"/v2/team/app/blobs/sha256:{'0' * 64}"
    world.upstream.fail("blob", 307, headers={"Location": world.upstream.url + path})
    await _while(world)
    world.upstream.heal()


async def upstream_confuses_blobs(world: World) -> None:
    """Some answers are about another blob, of another size."""
    path = f"/v2/team/app/blobs/{world.truth.digest(0)}"
    world.upstream.fail("blob", 307, times=20, headers={"Location": world.upstream.url + path})
    await _while(world)
    world.upstream.heal()


async def upstream_body(world: World) -> None:
    """Bodies that are cut, short, long, endless, wrong, or something else."""
    fault = world.dice.choice(_BODIES)
    world.tally.faults[f"  {type(fault).__name__}"] += 1
    world.upstream.spoil(fault, times=world.dice.randint(1, 20))
    await _while(world)
    world.upstream.heal()


async def upstream_stalls(world: World) -> None:
    """Bodies stop in the middle."""
    world.upstream.gate = gate = Gate(released=world.dice.randrange(2_000_000))
    await _while(world)
    world.upstream.gate = None
    gate.open()


async def upstream_slow(world: World) -> None:
    """Each body at a few hundred kB/s."""
    world.upstream.bytes_per_second = 300_000
    await _while(world)
    world.upstream.bytes_per_second = None


async def upstream_rangeless(world: World) -> None:
    """200 with everything, whatever is asked."""
    world.upstream.ranges = False
    await _while(world)
    world.upstream.ranges = True


async def upstream_changes_validator(world: World) -> None:
    """The ETag is another one."""
    world.upstream.etag = f'"{world.dice.random()}"'
    await _while(world)
    world.upstream.etag = None


async def upstream_expires_urls(world: World) -> None:
    """Blobs lie behind signed URLs, and those expire again and again."""
    world.upstream.redirect = True
    for _ in range(world.dice.randint(2, 8)):
        await asyncio.sleep(0.3)
        world.upstream.expire_signatures()
    world.upstream.redirect = False


# --- the disk -------------------------------------------------------------------------------------------------------------


async def disk_full(world: World) -> None:
    """Others fill the disk."""
    world.truth.unsure()
    hog = world.disk / "hog"
    with contextlib.suppress(OSError), hog.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    await _while(world)
    hog.unlink()
    world.truth.unsure()


async def disk_read_only(world: World) -> None:
    """The instance dies and comes back to a disk that is read-only."""
    await world.kill()
    await world.remount("ro")
    try:
        await world.start()
        await _while(world)
    finally:
        await world.remount("rw")
        world.truth.unsure()


async def store_removed(world: World) -> None:
    """Somebody removes what is in the cache, under the running instance."""
    world.truth.unsure()
    for name in world.dice.choice((("chunks",), ("tmp",), ("records",), ("chunks", "tmp", "records"))):
        await asyncio.to_thread(shutil.rmtree, world.store / name, ignore_errors=True)
    world.truth.unsure()


async def chunks_damaged(world: World) -> None:
    """Chunks are cut short, or get a wrong byte."""
    for path in _some_chunks(world):
        with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if world.dice.random() < 0.5 or not size:
                file.truncate(world.dice.randrange(size + 1))
            else:
                file.seek(world.dice.randrange(size))
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 1]))


def _some_chunks(world: World) -> Iterator[Path]:
    walk = os.walk(world.store / "chunks")  # which does not mind what is evicted meanwhile
    found = sorted(Path(directory, name) for directory, _, names in walk for name in names)
    yield from world.dice.sample(found, min(len(found), 30))


async def records_corrupt(world: World) -> None:
    """Pages of the records' database become noise."""
    world.truth.unsure()
    with contextlib.suppress(OSError), (world.store / "records" / "cache.db").open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        for _ in range(4):
            file.seek(world.dice.randrange(max(size, 1)) & ~4095)
            file.write(world.dice.randbytes(4096))
    await _while(world)
    world.truth.unsure()


async def records_locked(world: World) -> None:
    """Another process holds the database's lock."""
    world.truth.unsure()
    with contextlib.suppress(sqlite3.Error):
        connection = sqlite3.connect(world.store / "records" / "cache.db", timeout=1, isolation_level=None)
        try:
            connection.execute("BEGIN EXCLUSIVE")
            await _while(world)
        finally:
            connection.close()
    world.truth.unsure()


# --- the process ----------------------------------------------------------------------------------------------------------


async def killed(world: World) -> None:
    """SIGKILL for the first process, and a new start."""
    await world.kill(children=False)
    await world.start()


async def killed_often(world: World) -> None:
    """SIGKILL again and again, a moment after each start."""
    for _ in range(world.dice.randint(2, 4)):
        await world.kill()
        await world.start()
        await asyncio.sleep(world.dice.uniform(0, 0.5))


async def restarted(world: World) -> None:
    """SIGTERM, and a new start."""
    await world.stop()
    await world.start()


async def stopped(world: World) -> None:
    """SIGSTOP for a while."""
    world.proxy.process.signal(signal.SIGSTOP)
    await _while(world)
    world.proxy.process.signal(signal.SIGCONT)


async def worker_killed(world: World) -> None:
    """SIGKILL for one of its processes: it is started anew by the one that has started it."""
    children = world.children()
    if children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(world.dice.choice(children), signal.SIGKILL)
        world.truth.ended()


async def power_cut(world: World) -> None:
    """SIGKILL, and of the store what the last fsync has saved."""
    await world.kill()
    world.truth.unsure()
    await asyncio.to_thread(powercut.cut, world.store, world.dice)
    await world.start()
    world.truth.unsure()


# --- others ---------------------------------------------------------------------------------------------------------------


async def crowd(world: World) -> None:
    """Hundreds of connections that say nothing."""
    host, _, port = world.proxy.address.rpartition(":")
    calls = []
    try:
        for _ in range(CROWD):
            one = socket.socket()
            calls.append(one)
            one.setblocking(False)
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().sock_connect(one, (host, int(port)))
        await _while(world)
    finally:
        for one in calls:
            one.close()


NEEDS_DISK: Final = frozenset({disk_full, disk_read_only})
UPSTREAM: Final[tuple[Fault, ...]] = (
    upstream_refuses,
    upstream_silent,
    upstream_drops,
    upstream_status,
    upstream_status,
    upstream_redirect_loop,
    upstream_confuses_blobs,
    upstream_body,
    upstream_body,
    upstream_body,
    upstream_body,
    upstream_stalls,
    upstream_slow,
    upstream_rangeless,
    upstream_changes_validator,
    upstream_expires_urls,
)
LOCAL: Final[tuple[Fault, ...]] = (
    disk_full,
    disk_read_only,
    store_removed,
    chunks_damaged,
    chunks_damaged,
    records_corrupt,
    records_locked,
    killed,
    killed_often,
    restarted,
    stopped,
    power_cut,
    crowd,
)
WORKERS: Final[tuple[Fault, ...]] = (worker_killed, worker_killed, worker_killed)


async def inject(world: World, until: float, rest: float, only: Sequence[str] = ("*",)) -> None:
    """Faults of the upstream, and beside them those of the disk and the process, until then (monotonic seconds).

    ``only``: patterns (fnmatch) of their names.
    """
    local = LOCAL + (WORKERS if world.workers > 1 else ())
    usable = [fault for fault in local if world.mounted or fault not in NEEDS_DISK]
    async with asyncio.TaskGroup() as group:
        for faults in (UPSTREAM, usable):
            wanted = [fault for fault in faults if any(fnmatchcase(_name(fault), pattern) for pattern in only)]
            if wanted:
                group.create_task(_inject(world, wanted, until, rest))


def _name(fault: Fault) -> str:
    return fault.__name__.replace("_", " ")


async def _inject(world: World, faults: Sequence[Fault], until: float, rest: float) -> None:
    """One fault after the other, each of them once before any comes again, with rests in between."""
    pile: list[Fault] = []
    while time.monotonic() < until:
        if not pile:
            pile = world.dice.sample(faults, len(faults))
        fault = pile.pop()
        name = _name(fault)
        world.tally.faults[name] += 1
        say(name)
        await fault(world)
        await asyncio.sleep(world.dice.uniform(0, rest))
