"""Room: the limit holds at every moment, and what is in use stays."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.errors import StoreFull
from registry_proxy.oci.digest import Digest
from registry_proxy.tiers import rooms
from registry_proxy.tiers.accounts import Accounts
from registry_proxy.tiers.layout import GROUP, GroupKey, Layout
from registry_proxy.tiers.space import Space, default_limit, margin
from registry_proxy.tiers.store import open_store
from tests.tiers.blobs import CHUNK, disk_use, keep, loaded, noise, running, settings

GROUP_COST = GROUP * (CHUNK + 4096)
DIGEST = Digest.of(b"wanted")


async def test_the_oldest_group_makes_room(place: Path) -> None:
    """Eviction takes whole groups by last use, and only as many as are needed."""
    blobs = [noise(GROUP * CHUNK, seed) for seed in range(3)]
    async with running(place, limit=3 * GROUP_COST) as store:
        for blob in blobs:
            await keep(store, blob)
        assert await loaded(store, blobs[0], 7) is not None
        room = await store.reserve(CHUNK, DIGEST)
        assert room is not None
        assert [store.missing(blob.digest, blob.grid) for blob in blobs] == [0, GROUP, 0]
        assert store.stats().evictions == 1
        room.release()


async def test_the_limit_holds_while_writers_race(place: Path) -> None:
    """Many flights at once never make the files exceed the limit."""
    limit = 2 * GROUP_COST
    async with running(place, limit=limit) as store:
        blobs = [noise(20 * CHUNK, seed) for seed in range(12)]
        writers = {asyncio.create_task(keep(store, blob)) for blob in blobs}
        pending = writers
        while pending:
            _, pending = await asyncio.wait(pending, timeout=0.005)
            assert await asyncio.to_thread(disk_use, place) <= limit
            assert store.stats().bytes + store.stats().promised <= limit
        await asyncio.gather(*writers)
        await store.save()
        assert store.stats().evictions > 0
        assert store.stats().promised == 0
    assert disk_use(place) <= limit


async def test_what_is_open_is_not_evicted(place: Path) -> None:
    """A group with a chunk on loan is pinned until the chunk is given back."""
    blob = noise(GROUP * CHUNK)
    async with running(place, limit=GROUP_COST) as store:
        await keep(store, blob)
        chunk = store.open_chunk(blob.digest, blob.grid, 0)
        assert chunk is not None
        assert await store.reserve(CHUNK, DIGEST) is None
        assert store.has(blob.digest, 0)
        chunk.close()
        room = await store.reserve(CHUNK, DIGEST)
        assert room is not None
        assert not store.has(blob.digest, 0)
        room.release()


async def test_a_reader_of_an_evicted_chunk_reads_on(place: Path) -> None:
    """Unlinking takes the name away, not the bytes from under a reader."""
    blob = noise(CHUNK)
    async with running(place) as store:
        await keep(store, blob)
        chunk = store.open_chunk(blob.digest, blob.grid, 0)
        assert chunk is not None
        await store.drop(blob.digest)
        await keep(store, noise(CHUNK, 1))
        assert chunk.read(0, CHUNK) == blob.data
        chunk.close()


async def test_a_blob_larger_than_the_store_evicts_nothing(place: Path) -> None:
    """What will not fit anyway leaves everything as it is."""
    blob = noise(10 * CHUNK)
    async with running(place, limit=GROUP_COST) as store:
        await keep(store, blob)
        assert await store.reserve(100 * GROUP_COST, DIGEST) is None
        assert store.missing(blob.digest, blob.grid) == 0
        assert store.writable


async def test_room_not_used_is_given_back(place: Path) -> None:
    """A flight that ends early, or whose chunks compress, leaves its room to others."""
    async with running(place, limit=GROUP_COST) as store:
        room = await store.reserve(GROUP * CHUNK, DIGEST)
        assert room is not None
        assert await store.reserve(CHUNK, DIGEST) is None
        room.release()
        room.release()
        again = await store.reserve(GROUP * CHUNK, DIGEST)
        assert again is not None
        again.release()
        assert store.stats().promised == 0


async def test_more_than_was_reserved_is_not_written(place: Path) -> None:
    """A room is a limit, too."""
    blob = noise(2 * CHUNK)
    async with running(place) as store:
        room = await store.reserve(CHUNK, blob.digest)
        assert room is not None
        (await store.put(blob.digest, blob.grid, 0, blob.part(0), room)).close()
        with pytest.raises(StoreFull):
            await store.put(blob.digest, blob.grid, 1, blob.part(1), room)
        room.release()
        assert store.stats().bytes == CHUNK + 4096
        assert store.writable


async def test_a_cancelled_reservation_keeps_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever leaves while groups are being evicted for him leaves no promise behind."""
    started, go_on = asyncio.Event(), asyncio.Event()
    make_room = rooms.Rooms._make_room

    async def slow(self: rooms.Rooms, want: int) -> bool:
        started.set()
        await go_on.wait()
        return await make_room(self, want)

    async with running(place) as store:
        monkeypatch.setattr(rooms.Rooms, "_make_room", slow)
        reserving = asyncio.create_task(store.reserve(CHUNK, DIGEST))
        await started.wait()
        reserving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reserving
        go_on.set()
        await store._threads.settle()
        assert store.stats().promised == 0


async def test_a_chunk_that_goes_with_an_evicted_group_is_not_believed_in(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk committed to a group while its directory is being taken away may go with it: the accounts are looked at again."""
    blob = noise(2 * CHUNK)
    removing, on, remove = threading.Event(), threading.Event(), rooms._remove_groups

    def slow(layout: Layout, keys: Sequence[GroupKey]) -> list[GroupKey]:
        removing.set()
        on.wait(10)
        return remove(layout, keys)

    monkeypatch.setattr(rooms, "_remove_groups", slow)
    async with running(place, limit=GROUP_COST) as store:
        room = await store.reserve(CHUNK, blob.digest)
        assert room is not None
        await keep(store, blob, 0)
        evicting = asyncio.create_task(store.reserve((GROUP - 1) * CHUNK, DIGEST))
        await asyncio.to_thread(removing.wait, 10)
        (await store.put(blob.digest, blob.grid, 1, blob.part(1), room)).close()
        on.set()
        await evicting
        await store.save()
        assert (store.has(blob.digest, 1), store.stats().bytes) == (False, 0)


async def test_the_disk_is_left_some_space(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When others fill the disk, the store shrinks below its limit rather than using the last bytes."""
    blob = noise(GROUP * CHUNK)
    async with running(place) as store:
        await keep(store, blob)
        space = {"free": 0}
        monkeypatch.setattr(rooms, "disk_space", lambda _: (space["free"] + freed(), 100 * CHUNK))

        def freed() -> int:
            return GROUP * CHUNK - disk_use(place) + GROUP * 32

        room = await store.reserve(10 * CHUNK, DIGEST)
        assert room is not None
        assert store.missing(blob.digest, blob.grid) == GROUP
        room.release()
        assert await store.reserve(GROUP * CHUNK, DIGEST) is None


async def test_a_lowered_limit_is_reached_at_the_start(place: Path) -> None:
    """After the configuration changed, the store evicts down to it by itself, the oldest first."""
    blobs = [noise(GROUP * CHUNK, seed) for seed in range(3)]
    async with running(place) as store:
        for blob in blobs:
            await keep(store, blob)
    async with running(place, limit=GROUP_COST) as store:
        room = await store.reserve(0, DIGEST)
        assert room is not None
        assert [store.missing(blob.digest, blob.grid) for blob in blobs] == [GROUP, GROUP, 0]
    assert disk_use(place) <= GROUP_COST


async def test_an_uncounted_store_keeps_the_limit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an unclean stop nothing is promised beyond the bound written down, until the files are counted."""
    blob = noise(GROUP * CHUNK)
    async with running(place, limit=GROUP_COST) as store:
        await keep(store, blob)
    (place / "state").unlink()
    monkeypatch.setattr(rooms, "_COUNT_PATIENCE", 10.0)
    async with open_store(settings(place, limit=GROUP_COST)) as (store, _):
        assert store.stats().bytes >= GROUP_COST
        room = await store.reserve(CHUNK, DIGEST)
        assert room is not None
        assert store.stats().counted
        assert disk_use(place) + room.left <= GROUP_COST
        room.release()


async def test_the_default_limit_is_a_fifth(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the free space and the store's own use together."""
    blob = noise(10 * CHUNK)
    async with running(place, limit=None) as store:
        await keep(store, blob)
        held = store.stats().bytes
    monkeypatch.setattr("registry_proxy.tiers.store.disk_space", lambda _: (1000 * CHUNK, 2000 * CHUNK))
    async with running(place, limit=None) as store:
        assert store.limit == (1000 * CHUNK + held) // 5


def test_a_small_disk_stays_usable() -> None:
    """The margin is a hundredth of a small disk and a quarter of a GiB of a large one."""
    assert margin(64 << 20) == (64 << 20) // 100
    assert margin(10 << 40) == 256 << 20
    assert default_limit(80, 20) == 20


@given(st.lists(st.tuples(st.integers(0, 300_000), st.booleans()), max_size=20))
def test_promises_add_up(flights: list[tuple[int, bool]]) -> None:
    """Whatever is taken, committed smaller, given back after the release or never used: at the end nothing is promised."""
    accounts = Accounts(lambda: 0.0)
    space = Space(accounts, 1 << 40, CHUNK)
    for nbytes, early in flights:
        room = space.promise(space.cost_of(nbytes))
        takes = [min(CHUNK, nbytes - at) + 32 for at in range(0, nbytes, CHUNK)]
        for take in takes[: len(takes) // 2]:
            cost = -(-take // 4096) * 4096
            room.take(cost)
            if early:
                room.release()
                room.give_back(cost)
                break
            room.commit(cost, cost // 8192 * 4096)
        room.release()
        assert space.promised == 0
