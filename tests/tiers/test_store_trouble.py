"""Trouble with the disk is the store's own: whoever writes is told at once, whoever reads gets what is there."""

import asyncio
import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path

import pytest

from registry_proxy.errors import StoreBroken, StoreFull, StoreTrouble
from registry_proxy.tiers import checks, commits, writing
from registry_proxy.tiers.openfiles import OpenFile, StoredChunk
from registry_proxy.tiers.store import ChunkStore
from tests.tiers.blobs import CHUNK, Blob, files, keep, loaded, noise, running


async def refused(store: ChunkStore, blob: Blob) -> tuple[type[StoreTrouble], str]:
    """What putting a blob's first chunk into reserved room raises, and what its hasher has seen then."""
    room = await store.reserve(CHUNK, blob.digest)
    assert room is not None
    hasher = blob.digest.hasher()
    try:
        with pytest.raises(StoreTrouble) as caught:
            await store.put(blob.digest, blob.grid, 0, blob.part(0), room, hasher=hasher)
    finally:
        room.release()
    assert store.stats().promised == 0
    return caught.type, hasher.hexdigest()


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EROFS, StoreBroken), (errno.EIO, StoreBroken)],
)
async def test_a_failing_disk_refuses_and_reading_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StoreTrouble]
) -> None:
    """The writer gets an error of its kind with its hash done, no half file stays, writing is not tried for a while."""
    old, new = noise(CHUNK), noise(CHUNK, 1)

    def fail(descriptor: int, body: bytes, _: bytes) -> None:
        os.write(descriptor, bytes(body)[:100])
        raise OSError(number, os.strerror(number))

    clock = [1000.0]
    async with running(place) as store:
        monkeypatch.setattr(store._health, "_clock", lambda: clock[0])
        await keep(store, old)
        with monkeypatch.context() as broken:
            broken.setattr(writing.chunkfile, "write", fail)
            assert await refused(store, new) == (kind, new.digest.hex)
        assert not store.writable
        assert await store.reserve(CHUNK, new.digest) is None
        assert await loaded(store, old, 0) == old.data
        assert await loaded(store, new, 0) is None
        assert list((place / "tmp").iterdir()) == []
        clock[0] += 11
        assert store.writable
        await keep(store, new)
        assert await loaded(store, new, 0) == new.data


async def test_a_disk_that_hangs_is_given_up_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some seconds the writer goes on without the store; no other write is tried until this one has ended."""
    blob = noise(CHUNK)
    go_on = threading.Event()
    write = writing.chunkfile.write

    def hang(descriptor: int, body: bytes, sha256: bytes) -> None:
        assert go_on.wait(20)
        write(descriptor, body, sha256)

    clock = [1000.0]
    monkeypatch.setattr(writing.chunkfile, "write", hang)
    monkeypatch.setattr(commits, "_PATIENCE", 0.05)
    async with running(place) as store:
        monkeypatch.setattr(store._health, "_clock", lambda: clock[0])
        room = await store.reserve(CHUNK, blob.digest)
        assert room is not None
        hasher = blob.digest.hasher()
        with pytest.raises(StoreBroken, match="within"):
            await store.put(blob.digest, blob.grid, 0, blob.data, room, hasher=hasher)
        room.release()
        assert hasher.hexdigest() == blob.digest.hex
        clock[0] += 100
        assert not store.writable
        go_on.set()
        await store._threads.settle()
        assert store.writable
        assert await loaded(store, blob, 0) == blob.data
        assert store.stats().promised == 0


async def test_a_write_that_ends_as_its_time_is_up_is_not_waited_for(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that ends in the same moment in which it is given up on does not keep the store from taking others for ever."""
    blob, clock = noise(CHUNK), [1000.0]

    async def finish(work: Coroutine[object, object, StoredChunk], *_: object) -> StoredChunk:
        (await work).close()
        raise TimeoutError

    async with running(place) as store:
        monkeypatch.setattr(store._health, "_clock", lambda: clock[0])
        room = await store.reserve(CHUNK, blob.digest)
        assert room is not None
        with monkeypatch.context() as threads:
            threads.setattr(store._threads, "finish", finish)
            with pytest.raises(StoreBroken, match="within"):
                await store.put(blob.digest, blob.grid, 0, blob.data, room)
        room.release()
        clock[0] += 100
        assert store.writable


async def test_the_directory_removed_under_the_store(place: Path) -> None:
    """Everything is a miss then, and writing makes the directories again."""
    blob = noise(3 * CHUNK)
    async with running(place) as store:
        await keep(store, blob)
        shutil.rmtree(place / "chunks")
        shutil.rmtree(place / "tmp")
        assert [await loaded(store, blob, index) for index in range(3)] == [None] * 3
        await keep(store, blob, 1)
        assert await loaded(store, blob, 1) == blob.part(1)
        await store.save()
        assert store.stats().bytes == CHUNK + 4096


async def test_no_more_descriptors_is_a_miss(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the process has run out of files the look-up misses instead of raising."""
    blob = noise(CHUNK)
    async with running(place) as store:
        await keep(store, blob)
        store._files.close()

        def fail(*_: object) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as broken:
            broken.setattr("registry_proxy.tiers.openfiles.os.open", fail)
            assert store.open_chunk(blob.digest, blob.grid, 0) is None
            assert await store.load_chunk(blob.digest, blob.grid, 0) is None
        assert store.has(blob.digest, 0)
        assert await loaded(store, blob, 0) == blob.data


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_disk_that_others_fill(small_disk: Path) -> None:
    """On a really full disk the store evicts, or says that there is no room; it serves what it has, and starts again."""
    place = small_disk / "store"
    blob, late = noise(20 * CHUNK), noise(CHUNK, 1)
    async with running(place, limit=1 << 20) as store:
        await keep(store, blob)
        chunk = store.open_chunk(blob.digest, blob.grid, 0)
        assert chunk is not None
        room = await store.reserve(CHUNK, late.digest)
        assert room is not None
        with pytest.raises(OSError, match="No space"):
            (small_disk / "hog").write_bytes(bytes(2 << 20))
        with pytest.raises(StoreFull):
            await store.put(late.digest, late.grid, 0, late.data, room)
        room.release()
        assert chunk.read(0, CHUNK) == blob.part(0)
        chunk.close()
        assert await loaded(store, blob, 19) == blob.part(19)
    async with running(place, limit=1 << 20) as store:
        assert await loaded(store, blob, 3) == blob.part(3)
        assert await store.reserve(CHUNK, late.digest) is None or not store.has(blob.digest, 0)


async def test_a_disk_that_has_become_read_only(small_disk: Path) -> None:
    """The store goes on serving, and starts again on it."""
    place = small_disk / "store"
    blob, late = noise(5 * CHUNK), noise(CHUNK, 1)
    async with running(place, limit=1 << 20) as store:
        await keep(store, blob)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    async with running(place, limit=1 << 20) as store:
        assert await loaded(store, blob, 2) == blob.part(2)
        assert await store.reserve(CHUNK, late.digest) is None
        assert not store.writable
        assert await loaded(store, blob, 3) == blob.part(3)
    assert len(files(place)) == 5


async def test_a_check_that_takes_too_long_is_a_miss(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader does not wait for a disk that hangs; the chunk is there once the disk answers."""
    blob = noise(CHUNK)
    async with running(place) as store:
        await keep(store, blob)
    go_on = threading.Event()
    is_right = OpenFile.is_right
    monkeypatch.setattr(OpenFile, "is_right", lambda self: go_on.wait(20) and is_right(self))
    monkeypatch.setattr(checks, "_PATIENCE", 0.05)
    async with running(place) as store:
        assert await loaded(store, blob, 0) is None
        go_on.set()
        await store._threads.settle()
        assert await loaded(store, blob, 0) == blob.data
        assert not store._checks


async def test_a_reader_that_leaves_does_not_stop_the_check(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others wait for the same hash; nothing stays on loan."""
    blob = noise(CHUNK)
    async with running(place) as store:
        await keep(store, blob)
    go_on, begun = threading.Event(), threading.Event()
    is_right = OpenFile.is_right

    def slow(self: OpenFile) -> bool:
        begun.set()
        return go_on.wait(20) and is_right(self)

    monkeypatch.setattr(OpenFile, "is_right", slow)
    async with running(place) as store:
        first = asyncio.create_task(loaded(store, blob, 0))
        await asyncio.to_thread(begun.wait, 10)
        second = asyncio.create_task(loaded(store, blob, 0))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go_on.set()
        assert await second == blob.data
