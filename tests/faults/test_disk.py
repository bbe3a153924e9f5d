"""Everything that a disk can do, for real, under a whole instance: right bytes from the upstream, the cache repairs itself, nothing else is lost."""

import asyncio
import contextlib
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry_proxy.plan.chunks import Span
from registry_proxy.pull.landing import BlobLanding
from tests.fakes.instance import CHUNK, HOST, Bench, Benches, benches, noise
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.fakes.wire import Wire
from tests.faults.conftest import fill, right, right_at_last
from tests.interop.harness.proxy import registry_proxy
from tests.tiers.blobs import files

OLD, NEW, BIG = noise(3 * CHUNK + 5, 1), noise(5 * CHUNK + 7, 2), noise(20 << 20, 3)


@pytest.fixture(params=[True, False], ids=["ranged", "range-less"])
def either(request: pytest.FixtureRequest, upstream: FakeUpstream) -> FakeUpstream:
    """An upstream with ranges, and one without."""
    upstream.ranges = request.param
    return upstream


async def test_a_full_disk(small_disk: Path, either: FakeUpstream) -> None:
    """What is stored is served, what is not passes through, whole and in part; when there is room again it is kept."""
    old, new = either.add_blob(OLD), either.add_blob(NEW)
    async with benches(small_disk / "store", either)(limit=6 << 20, listen=True) as b:
        assert await right(b, old, OLD)
        hog = fill(small_disk)
        for _ in range(2):
            assert await right(b, new, NEW)
            assert await right(b, new, NEW, Span(2 * CHUNK - 5, 2 * CHUNK + 5))
        assert await right(b, old, OLD)
        hog.unlink()
        b.instance.store._health._refusing_until = 0.0
        await right_at_last(b, new, NEW)
        async with asyncio.timeout(60):
            while b.instance.store.missing(new, b.instance.store.grid(len(NEW))):
                assert await right(b, new, NEW)
                await asyncio.sleep(0.5)


async def test_a_disk_that_is_full_from_the_start(small_disk: Path, either: FakeUpstream) -> None:
    """An instance that has to start on a full disk serves all the same."""
    old, new = either.add_blob(OLD), either.add_blob(NEW)
    make = benches(small_disk / "store", either)
    async with make(limit=6 << 20, listen=True) as b:
        assert await right(b, old, OLD)
    fill(small_disk)
    async with make(limit=6 << 20, listen=True) as b:
        assert await right(b, old, OLD)
        assert await right(b, new, NEW)


async def test_a_read_only_disk(small_disk: Path, either: FakeUpstream) -> None:
    """An instance whose disk has come back read-only serves what it holds and passes on the rest."""
    old, new = either.add_blob(OLD), either.add_blob(NEW)
    make = benches(small_disk / "store", either)
    async with make(limit=6 << 20, listen=True) as b:
        assert await right(b, old, OLD)
    sent = either.sent(old)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    async with make(limit=6 << 20, listen=True) as b:
        for _ in range(2):
            assert await right(b, old, OLD)
            assert await right(b, new, NEW)
            assert await right(b, new, NEW, Span(CHUNK - 5, CHUNK + 5))
    assert either.sent(old) == sent


async def test_a_blob_larger_than_the_disk(small_disk: Path, either: FakeUpstream) -> None:
    """A store with room for a quarter of a blob does not keep a client from all of it, twice."""
    big = either.add_blob(BIG)
    async with benches(small_disk / "store", either)(limit=6 << 20, listen=True) as b:
        for _ in range(2):
            assert await right(b, big, BIG)


def cut_short(path: Path) -> None:
    """Half of the file is gone."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def emptied(path: Path) -> None:
    """All of it is gone."""
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    """One bit is another one."""
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


def zeroed(path: Path) -> None:
    """The length is right, and all is zeroes."""
    path.write_bytes(bytes(path.stat().st_size))


def foreign(path: Path) -> None:
    """A directory lies where the file was."""
    path.unlink()
    path.mkdir()
    (path / "something").touch()


@pytest.mark.parametrize("running", [True, False], ids=["running", "restarted"])
@pytest.mark.parametrize("damage", [cut_short, emptied, flipped, zeroed, foreign], ids=lambda damage: damage.__name__)
async def test_a_damaged_chunk(
    bench: Benches, upstream: FakeUpstream, damage: Callable[[Path], None], running: bool, tmp_path: Path
) -> None:
    """It is fetched again, and only it; the client never knows, and the file is right afterwards."""
    old = upstream.add_blob(OLD)
    async with contextlib.AsyncExitStack() as stack:
        b = await stack.enter_async_context(bench(listen=True))
        assert await right(b, old, OLD)
        before = upstream.sent(old)
        if not running:
            await stack.aclose()
        damage(files(tmp_path / "store")[f"{old.hex[:2]}/{old.hex}/0/1"])
        if not running:
            b = await stack.enter_async_context(bench(listen=True))
        assert await right(b, old, OLD)
        assert await right(b, old, OLD, Span(CHUNK, CHUNK + 9))
        assert upstream.sent(old) - before == CHUNK
        assert len(files(tmp_path / "store")) == 4


async def test_a_cache_directory_removed_under_the_instance(
    bench: Benches, upstream: FakeUpstream, tmp_path: Path
) -> None:
    """Everything is fetched again and kept again; nobody has to restart anything."""
    old, new = upstream.add_blob(OLD), upstream.add_blob(NEW)
    async with bench(listen=True) as b:
        assert await right(b, old, OLD)
        shutil.rmtree(tmp_path / "store")
        assert await right(b, old, OLD)
        assert await right(b, new, NEW)
        sent = upstream.sent(old)
        assert await right(b, old, OLD)
        assert upstream.sent(old) == sent
    async with bench(listen=True) as b:
        assert await right(b, old, OLD)


async def manifest(b: Bench, digest: object) -> int:
    """The status of a manifest by its digest."""
    async with b.wire() as wire:
        return (await wire.ask(f"/v2/{REPOSITORY}/manifests/{digest}?ns={HOST}")).status


def noise_in_the_middle(database: Path) -> None:
    """Its first pages but the header are noise."""
    with database.open("r+b") as file:
        file.seek(100)
        file.write(noise(3 * 4096))


def nothing_left(database: Path) -> None:
    """It is empty."""
    database.write_bytes(b"")


def removed(database: Path) -> None:
    """It is gone, with its directory."""
    shutil.rmtree(database.parent)


@pytest.mark.parametrize("running", [True, False], ids=["running", "restarted"])
@pytest.mark.parametrize("damage", [noise_in_the_middle, nothing_left, removed], ids=lambda damage: damage.__name__)
async def test_damaged_records(
    bench: Benches, upstream: FakeUpstream, damage: Callable[[Path], None], running: bool, tmp_path: Path
) -> None:
    """They begin anew: manifests are asked for again, chunks are still there, and what is noted from then on lasts; that may be from
    the next start on, since a database that is open looks at few of its pages."""
    old, new, image = upstream.add_blob(OLD), upstream.add_blob(NEW), upstream.add_image()
    database = tmp_path / "store" / "records" / "cache.db"
    async with contextlib.AsyncExitStack() as stack:
        b = await stack.enter_async_context(bench(listen=True))
        assert await right(b, old, OLD)
        assert await manifest(b, image) == 200
        sent = upstream.sent(old)
        if not running:
            await stack.aclose()
        damage(database)
        if not running:
            b = await stack.enter_async_context(bench(listen=True))
        assert await manifest(b, image) == 200
        assert await right(b, old, OLD)
        assert await right(b, new, NEW)
        assert upstream.sent(old) == sent
        later = upstream.add_image(layers=[b"later"])
        assert await manifest(b, later) == 200
    for start in (1, 2):
        asked = len(upstream.asked("manifest"))
        async with bench(listen=True) as b:
            assert await right(b, old, OLD)
            assert await right(b, new, NEW)
            assert await manifest(b, later) == 200
            lasted = len(upstream.asked("manifest")) == asked
            assert lasted or (start == 1 and running and damage is not removed)
            assert await manifest(b, image) == 200
    assert upstream.sent(old) <= sent + 1  # one byte where HEAD does not tell the size


async def test_records_locked_by_another_process(bench: Benches, upstream: FakeUpstream, tmp_path: Path) -> None:
    """Nobody waits for a lock longer than its limit: blobs and manifests are served, cold ones too."""
    old, new, image = upstream.add_blob(OLD), upstream.add_blob(NEW), upstream.add_image()
    async with bench(listen=True) as b:
        assert await right(b, old, OLD)
        with contextlib.closing(
            sqlite3.connect(tmp_path / "store" / "records" / "cache.db", isolation_level=None)
        ) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert await right(b, old, OLD)
            assert await right(b, new, NEW)
            assert await manifest(b, image) == 200
            other.execute("ROLLBACK")
        assert await right(b, old, OLD)


async def test_a_limit_on_file_sizes(tmp_path: Path, upstream: FakeUpstream) -> None:
    """A process that may write no file as large as a chunk (RLIMIT_FSIZE) passes everything through, and lives."""
    new = upstream.add_blob(BIG)
    manager = registry_proxy(tmp_path, {str(HOST): upstream.url})
    proxy = await asyncio.to_thread(manager.__enter__)
    try:
        resource.prlimit(proxy.process.popen.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
        host, port = proxy.address.split(":")
        for _ in range(2):
            async with Wire((host, int(port))) as wire:
                answer = await wire.ask(f"/v2/{REPOSITORY}/blobs/{new}?ns={HOST}")
                assert answer.complete
                assert answer.body == BIG
        assert not files(proxy.store)
        assert proxy.process.popen.poll() is None
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


async def test_a_chunk_damaged_between_its_commit_and_its_reader(
    bench: Benches, upstream: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a chunk gets it open as it was committed; what has become of it meanwhile is looked at first."""
    new = upstream.add_blob(NEW)
    damaged: list[Path] = []
    land = BlobLanding.land

    async def meddled(self: BlobLanding, index: int, *rest: Any) -> Any:
        chunk = await land(self, index, *rest)
        if index == 1 and not damaged:
            damaged.append(tmp_path / "store" / "chunks" / new.hex[:2] / new.hex / "0" / "1")
            await asyncio.to_thread(flipped, damaged[0])
        return chunk

    monkeypatch.setattr(BlobLanding, "land", meddled)
    async with bench(listen=True) as b:
        assert await right(b, new, NEW)
        assert damaged
        assert await right(b, new, NEW)
