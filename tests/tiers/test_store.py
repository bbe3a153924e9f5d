"""The store: what is committed is there, and nothing else is ever served."""

import asyncio
import hashlib
import os
import threading
from pathlib import Path

import pytest

from registry_proxy.tiers import store as store_module
from registry_proxy.tiers import writing
from registry_proxy.tiers.openfiles import OpenFile
from registry_proxy.tiers.recordfile import RecordFile
from registry_proxy.tiers.schema import VerifiedBlob
from registry_proxy.tiers.store import ChunkStore, open_store
from tests.tiers.blobs import CHUNK, Blob, both, files, keep, loaded, noise, running, settings, text


async def test_a_committed_chunk_is_served(place: Path) -> None:
    """After put the chunk is there, whole, by look-up; the short last one too."""
    blob = noise(2 * CHUNK + 100)
    async with running(place) as store:
        await keep(store, blob)
        for index in range(3):
            chunk = store.open_chunk(blob.digest, blob.grid, index)
            assert chunk is not None
            assert chunk.read(0, chunk.length) == blob.part(index)
            assert chunk.read(10, 20) == blob.part(index)[10:20]
            chunk.close()
        assert store.missing(blob.digest, blob.grid) == 0


async def test_a_chunk_is_not_there_before_its_commit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its file is being written, neither look-up nor beliefs know the chunk."""
    blob = noise(CHUNK)
    writing_now, go_on = threading.Event(), threading.Event()
    write = writing.chunkfile.write

    def slow(descriptor: int, body: bytes, sha256: bytes) -> None:
        write(descriptor, body, sha256)
        writing_now.set()
        assert go_on.wait(10)

    monkeypatch.setattr(writing.chunkfile, "write", slow)
    async with running(place) as store:
        putting = asyncio.create_task(keep(store, blob))
        await asyncio.to_thread(writing_now.wait, 10)
        assert store.open_chunk(blob.digest, blob.grid, 0) is None
        assert await store.load_chunk(blob.digest, blob.grid, 0) is None
        assert not store.has(blob.digest, 0)
        go_on.set()
        await putting
        assert store.has(blob.digest, 0)
        assert await loaded(store, blob, 0) == blob.part(0)


async def test_text_lies_compressed_and_noise_as_it_is(place: Path) -> None:
    """A chunk that lies as it is offers its file for sendfile, a compressed one does not; both read the same."""
    plain, packed = noise(CHUNK), text(CHUNK)
    async with running(place) as store:
        await keep(store, plain)
        await keep(store, packed)
        for blob, has_file in ((plain, True), (packed, False)):
            chunk = store.open_chunk(blob.digest, blob.grid, 0)
            assert chunk is not None
            assert (chunk.file is not None) is has_file
            assert chunk.read(5, 500) == blob.data[5:500]
            assert chunk.sha256 == hashlib.sha256(blob.data).digest()
            if chunk.file is not None:
                assert os.pread(chunk.file.fileno(), chunk.length, 0) == blob.data
            chunk.close()
    names = {Path(name).name: file.stat().st_size for name, file in files(place).items()}
    assert names["0"] == CHUNK + 32
    assert names["0.lz4"] < CHUNK * 7 // 8


async def test_content_and_order_of_use_survive_a_restart(place: Path) -> None:
    """After a clean stop the next instance has the chunks, and evicts in the order of use of the last one."""
    blobs = [noise(4 * CHUNK, seed) for seed in range(3)]
    async with running(place) as store:
        for blob in blobs:
            await keep(store, blob)
        assert await loaded(store, blobs[0], 0) is not None
        held = store.stats().bytes
    async with running(place, limit=held + CHUNK) as store:
        assert store.stats().bytes == held
        assert store.stats().chunks == 12
        room = await store.reserve(2 * CHUNK, noise(1, 9).digest)
        assert room is not None
        room.release()
        assert [store.has(blob.digest, 0) for blob in blobs] == [True, False, True]
        assert await loaded(store, blobs[0], 3) == blobs[0].part(3)


async def test_a_sha512_blob_has_chunks_of_its_own(place: Path) -> None:
    """Both registered algorithms name blobs."""
    blob = Blob(b"x" * 100, algorithm="sha512")
    async with running(place) as store:
        await keep(store, blob)
        assert await store.hash_blob(blob.digest, blob.grid) == blob.digest
    async with running(place) as store:
        assert store.has(blob.digest, 0)
        assert await loaded(store, blob, 0) == blob.data


async def test_serving_does_not_wait_for_the_accounts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an unclean stop chunks are served and planned with while the files are still being counted."""
    blob, late = noise(2 * CHUNK), noise(3 * CHUNK, 1)
    async with running(place) as store:
        await keep(store, blob)
    (place / "state").write_text('{"clean": false, "bytes": 100000}')
    counting = threading.Event()
    shards = store_module.walk.shards
    monkeypatch.setattr(store_module.walk, "shards", lambda layout: counting.wait(10) and shards(layout))
    async with open_store(settings(place)) as (store, _):
        assert await loaded(store, blob, 1) == blob.part(1)
        assert store.missing(blob.digest, blob.grid) == 0
        assert store.missing(late.digest, late.grid) == 3
        await keep(store, late, 1)
        assert store.missing(late.digest, late.grid) == 2
        assert not store.stats().counted
        counting.set()
        await store.counted()
        assert store.missing(blob.digest, blob.grid) == 0
        assert store.missing(late.digest, late.grid) == 2
        assert store.stats().bytes == 3 * (CHUNK + 4096)


async def test_a_stop_in_the_middle_of_saving_is_a_clean_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not saved when the keeper was stopped is saved at the end."""
    blobs = [noise(CHUNK, seed) for seed in range(5)]
    saving = asyncio.Event()
    async with both(place) as (store, records):
        for blob in blobs:
            await keep(store, blob)

        async def never(*_: object) -> None:
            saving.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as hanging:
            hanging.setattr(records.accounts, "put", never)
            stopped = asyncio.create_task(store.save())
            await saving.wait()
            stopped.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stopped
    monkeypatch.setattr(store_module.walk, "shards", lambda _: pytest.fail("counted the files"))
    async with running(place) as store:
        assert store.stats().chunks == 5


async def test_accounts_that_the_disk_did_not_take_are_saved_the_next_time(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that could not be written is not taken for saved; and a stop at which that is so is not a clean one."""
    first, second = noise(CHUNK), noise(CHUNK, 1)
    async with both(place) as (store, records):
        await keep(store, first)
        with monkeypatch.context() as disk:
            disk.setattr(RecordFile, "put", lambda *_: False)
            await store.save()
        await store.save()
        assert await records._backing.read(f"accounts:{first.digest.hex[:2]}") is not None
        await keep(store, second)
        monkeypatch.setattr(RecordFile, "put", lambda *_: False)
    monkeypatch.undo()
    async with running(place) as store:
        assert (store.stats().chunks, store.missing(second.digest, second.grid)) == (2, 0)


async def test_lost_accounts_are_counted_anew(place: Path) -> None:
    """Without records and state the files alone say what is held."""
    blob = noise(70 * CHUNK)
    async with running(place) as store:
        await keep(store, blob)
        before = store.stats()
    (place / "state").unlink()
    for file in (place / "records").iterdir():
        file.unlink()
    async with running(place) as store:
        after = store.stats()
    assert (after.bytes, after.chunks, after.groups) == (before.bytes, before.chunks, before.groups) != (0, 0, 0)


# --- checking ------------------------------------------------------------------------------------------------------------


async def test_after_a_restart_a_chunk_is_checked_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first reader's load hashes it, for all who wait; from then on the look-up gives it."""
    blob = noise(CHUNK)
    async with running(place) as store:
        await keep(store, blob)
    hashed: list[OpenFile] = []
    is_right = OpenFile.is_right
    monkeypatch.setattr(OpenFile, "is_right", lambda self: (hashed.append(self), is_right(self))[1])
    async with running(place) as store:
        assert store.open_chunk(blob.digest, blob.grid, 0) is None
        assert await asyncio.gather(*(loaded(store, blob, 0) for _ in range(5))) == [blob.data] * 5
        assert len(hashed) == 1
        chunk = store.open_chunk(blob.digest, blob.grid, 0)
        assert chunk is not None
        chunk.close()


def flip(file: Path) -> None:
    """One bit wrong."""
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    """Half the file gone."""
    os.truncate(file, file.stat().st_size // 2)


def grow(file: Path) -> None:
    """Something behind the end."""
    file.write_bytes(file.read_bytes() + b"more")


def empty(file: Path) -> None:
    """As after a power cut."""
    file.write_bytes(b"")


def foreign(file: Path) -> None:
    """Another file of the same size in its place."""
    size = file.stat().st_size
    file.unlink()
    file.write_bytes(b"z" * size)


def to_link(file: Path) -> None:
    """A symbolic link to a right copy: not followed."""
    copy = file.rename(file.parent.parent.parent.parent.parent / f"copy-{file.name}")
    file.symlink_to(copy)


def to_fifo(file: Path) -> None:
    """Something that blocks whoever opens it carelessly."""
    file.unlink()
    os.mkfifo(file)


def to_directory(file: Path) -> None:
    """No file at all."""
    file.unlink()
    file.mkdir()


def gone(file: Path) -> None:
    """Removed."""
    file.unlink()


DAMAGES = [flip, cut, grow, empty, foreign, to_link, to_fifo, to_directory, gone]


@pytest.mark.parametrize("while_open", [True, False], ids=["while open", "between runs"])
@pytest.mark.parametrize("blob", [noise(CHUNK), text(CHUNK)], ids=["raw", "lz4"])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_file_is_a_miss(place: Path, damage: object, blob: Blob, while_open: bool) -> None:
    """Whatever becomes of a chunk's file from outside, it is not served, and the chunk can be stored again."""
    assert callable(damage)
    async with running(place) as store:
        await keep(store, blob)
        if while_open:
            (file,) = files(place).values()
            damage(file)
            await expect_miss_then_hit(store, blob)
    if not while_open:
        (file,) = files(place).values()
        damage(file)
        async with running(place) as store:
            await expect_miss_then_hit(store, blob)


async def expect_miss_then_hit(store: ChunkStore, blob: Blob) -> None:
    """The chunk is not there; stored again it is."""
    assert await loaded(store, blob, 0) is None
    assert not store.has(blob.digest, 0)
    await keep(store, blob)
    assert await loaded(store, blob, 0) == blob.data


async def test_damage_in_the_moment_of_the_commit(place: Path) -> None:
    """Time stamps of files move in steps of milliseconds; what is written to a chunk in the very step of its commit shows all the same."""
    async with running(place) as store:
        for seed in range(50):
            blob = noise(CHUNK, seed)
            await keep(store, blob)
            (file,) = files(place).values()
            with file.open("r+b") as target:
                target.write(bytes([blob.data[0] ^ 1]))
            assert await loaded(store, blob, 0) is None
            await store.drop(blob.digest)


async def test_damage_while_a_chunk_is_read_shows(place: Path) -> None:
    """Whoever reads can tell that what he had since may be wrong; a file that only lost its name is as it was."""
    blob = noise(2 * CHUNK)
    async with running(place) as store:
        await keep(store, blob)
        for index in range(2):
            chunk = await store.load_chunk(blob.digest, blob.grid, index)
            assert chunk is not None
            assert chunk.same_bytes()
            file = Path(store._layout.chunk(blob.digest, index))
            if index:
                with file.open("r+b") as target:
                    target.write(b"!")
            else:
                file.unlink()
            assert chunk.same_bytes() is (index == 0)
            chunk.close()


async def test_data_of_the_wrong_length_is_refused(place: Path) -> None:
    """Only a whole chunk can be committed."""
    blob = noise(CHUNK)
    async with running(place) as store:
        room = await store.reserve(CHUNK, blob.digest)
        assert room is not None
        with pytest.raises(ValueError, match="not chunk 0"):
            await store.put(blob.digest, blob.grid, 0, blob.data[1:], room)
        room.release()


# --- whole blobs -----------------------------------------------------------------------------------------------------------


async def test_a_complete_blob_is_hashed(place: Path) -> None:
    """The hash of the stored chunks in order is the blob's digest; with one missing there is none."""
    blob = noise(3 * CHUNK + 5)
    async with running(place) as store:
        await keep(store, blob, 0, 1, 3)
        assert await store.hash_blob(blob.digest, blob.grid) is None
        assert await store.chunk_hashes(blob.digest, blob.grid) is None
        await keep(store, blob, 2)
        assert await store.hash_blob(blob.digest, blob.grid) == blob.digest
        hashes = b"".join(hashlib.sha256(blob.part(index)).digest() for index in range(4))
        assert await store.chunk_hashes(blob.digest, blob.grid) == hashes


async def test_a_dropped_blob_is_gone_at_once(place: Path) -> None:
    """Nobody finds any of its chunks any more; whoever has one open reads on; other blobs stay."""
    blob, other = noise(70 * CHUNK), noise(CHUNK, 1)
    async with running(place) as store:
        await keep(store, blob)
        await keep(store, other)
        reader = store.open_chunk(blob.digest, blob.grid, 5)
        assert reader is not None
        await store.drop(blob.digest)
        assert store.missing(blob.digest, blob.grid) == 70
        assert await loaded(store, blob, 5) is None
        assert reader.read(0, CHUNK) == blob.part(5)
        reader.close()
        assert await loaded(store, other, 0) == other.data
        assert store.stats().chunks == 1
    assert len(files(place)) == 1


async def test_a_dropped_chunk_is_gone_alone(place: Path) -> None:
    """Its neighbours stay."""
    blob = noise(2 * CHUNK)
    async with running(place) as store:
        await keep(store, blob)
        await store.drop_chunk(blob.digest, 0)
        assert await loaded(store, blob, 0) is None
        assert await loaded(store, blob, 1) == blob.part(1)
        await store.save()
        assert store.stats().bytes == CHUNK + 4096


async def test_what_is_known_of_verified_blobs_is_kept_after_eviction(place: Path) -> None:
    """Records do not go with the chunks."""
    blob = noise(CHUNK)
    async with both(place) as (store, records):
        await keep(store, blob)
        hashes = await store.chunk_hashes(blob.digest, blob.grid)
        assert hashes is not None
        await records.verified.put(str(blob.digest), VerifiedBlob(size=CHUNK, chunk_size=CHUNK, chunk_hashes=hashes))
        await store.drop(blob.digest)
    async with both(place) as (_, records):
        known = await records.verified.get(str(blob.digest))
        assert known is not None
        assert known.chunk_hash(0) == hashlib.sha256(blob.data).digest()


# --- open files -----------------------------------------------------------------------------------------------------------


def open_descriptors() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_open_files_are_bounded(place: Path) -> None:
    """However many chunks are read, only so many files stay open; those on loan close when they are given back."""
    blob = noise(20 * CHUNK)
    config = settings(place)
    async with open_store(type(config)(path=place, limit=64 << 20, chunk_size=CHUNK, open_files=4)) as (store, _):
        await keep(store, blob)
        before = open_descriptors()
        chunks = [store.open_chunk(blob.digest, blob.grid, index) for index in range(20)]
        assert store.stats().open_files == 4
        for index, chunk in enumerate(chunks):
            assert chunk is not None
            assert chunk.read(0, 10) == blob.part(index)[:10]
            chunk.close()
        assert open_descriptors() <= before


async def test_nothing_stays_open_after_the_end(place: Path) -> None:
    """Closing the store closes its files, except for loans, which their readers close."""
    blob = noise(3 * CHUNK)
    before = open_descriptors()
    async with running(place) as store:
        await keep(store, blob)
        last = store.open_chunk(blob.digest, blob.grid, 0)
        assert last is not None
    assert last.read(0, 5) == blob.data[:5]
    last.close()
    assert open_descriptors() <= before


async def test_a_cancelled_put_leaves_everything_right(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread goes on, the chunk is accounted, its file is not left on loan, and the room is given back."""
    blob = noise(CHUNK)
    writing_now, go_on = threading.Event(), threading.Event()
    write = writing.chunkfile.write

    def slow(descriptor: int, body: bytes, sha256: bytes) -> None:
        writing_now.set()
        assert go_on.wait(10)
        write(descriptor, body, sha256)

    monkeypatch.setattr(writing.chunkfile, "write", slow)
    async with running(place) as store:
        putting = asyncio.create_task(keep(store, blob))
        await asyncio.to_thread(writing_now.wait, 10)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        go_on.set()
        await store._threads.settle()
        assert await loaded(store, blob, 0) == blob.data
        assert store.stats().promised == 0
        assert store.stats().bytes == CHUNK + 4096
        group = next(iter(store._accounts))
        assert not group.pinned
