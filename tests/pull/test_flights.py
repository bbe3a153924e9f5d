"""Flights whose upstream changes its mind in the middle, and chunks that come in the very moment in which nobody waits any more."""

import asyncio

import pytest

from registry_proxy.errors import UpstreamBusy, UpstreamUnreachable
from registry_proxy.plan.readahead import FIRST_RUN
from registry_proxy.pull import flights
from registry_proxy.pull.wish import Wish
from tests.fakes.faults import Cut, Gate
from tests.fakes.instance import CHUNK, Benches, noise
from tests.fakes.upstream import FakeUpstream


async def test_nobody_waits_an_hour_because_an_upstream_says_so(bench: Benches, upstream: FakeUpstream) -> None:
    """A body that was cut is not resumed when the upstream says "in an hour": its readers are told, and the next one asks anew."""
    data = noise(30 * CHUNK)
    digest = upstream.add_blob(data)
    upstream.gate = gate = Gate(released=3 * CHUNK)
    upstream.spoil(Cut(after=5 * CHUNK), times=1)
    async with bench() as b:
        reading = asyncio.create_task(b.read(digest))
        await gate.blocked()
        upstream.fail("blob", 429, headers={"Retry-After": "3600"})
        gate.open()
        with pytest.raises(UpstreamBusy):
            await asyncio.wait_for(reading, 20)
        upstream.heal()
        assert await b.read(digest) == data


async def test_a_run_that_becomes_the_whole_blob_has_room_for_it(bench: Benches, upstream: FakeUpstream) -> None:
    """A run that is resumed where there are no ranges brings everything, and all of it is kept."""
    data = noise(2 * FIRST_RUN)
    digest = upstream.add_blob(data)
    upstream.gate = gate = Gate(released=3 * CHUNK)
    upstream.spoil(Cut(after=5 * CHUNK), times=1)
    async with bench() as b:
        reading = asyncio.create_task(b.read(digest))
        await gate.blocked()
        upstream.ranges = False
        gate.open()
        assert await reading == data
        store = b.instance.store
        assert (store.missing(digest, store.grid(len(data))), store.stats().promised) == (0, 0)


async def test_a_chunk_that_comes_as_its_reader_gives_up_is_let_go(
    bench: Benches, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk handed to a reader whose time is up in that very moment is closed: an open one would never be evicted."""
    digest = upstream.add_blob(noise(2 * CHUNK))
    async with bench() as b:
        await b.read(digest)
        monkeypatch.setattr(flights, "_STALL", 0)
        blob = await b.instance.blobs.open(b.place(digest))
        chunk = b.instance.store.open_chunk(digest, blob.flights.grid, 0)
        waiting = asyncio.create_task(blob.flights._landed(0, Wish(())))
        asyncio.get_running_loop().call_soon(
            blob.flights._waiters.wake, 0, chunk
        )  # after it has begun to wait, before its time is up
        with pytest.raises(UpstreamUnreachable):
            await waiting
        assert chunk is not None
        with pytest.raises(ValueError, match="given back"):
            _ = chunk.identity
