"""Cold downloads beyond an upstream's connections wait in line, and only as long as somebody wants them."""

import asyncio
from contextlib import suppress

import pytest

from registry_proxy.plan.chunks import Span
from tests.fakes.faults import Gate
from tests.fakes.instance import CHUNK, Bench, Benches, noise
from tests.fakes.upstream import FakeUpstream

BIG = [noise(20 * CHUNK, seed) for seed in range(40)]


async def until_flying(b: Bench, blobs: int) -> None:
    """Wait until so many blobs have flights, neither more nor fewer."""
    while len(b.instance.blobs._heart.flying) != blobs:  # noqa: ASYNC110
        await asyncio.sleep(0)


@pytest.mark.parametrize("ranges", [True, False], ids=["ranged", "range-less"])
async def test_downloads_that_nobody_waits_for_any_more_are_never_begun(
    bench: Benches, upstream: FakeUpstream, ranges: bool
) -> None:
    """Clients that ask for forty blobs and vanish keep nobody from the upstream, and buy nothing."""
    upstream.ranges = ranges
    first, last, *others = map(upstream.add_blob, BIG)
    async with bench(connections=1) as b:
        for digest in (first, last, *others):
            await b.instance.blobs.open(b.place(digest))
        upstream.gate = gate = Gate(released=CHUNK)
        reading = asyncio.create_task(b.read(first))
        await gate.blocked()
        crowd = [asyncio.create_task(b.read(digest)) for digest in others]
        waiting = asyncio.create_task(b.read(last, Span(0, 10)))
        await until_flying(b, 2 + len(others))
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
        await until_flying(b, 2)
        gate.open()
        assert await reading == BIG[0]
        assert await waiting == BIG[1][:10]
        assert [upstream.sent(digest) for digest in others] == [0] * len(others)


async def test_who_comes_while_a_download_is_given_up_starts_it_anew(bench: Benches, upstream: FakeUpstream) -> None:
    """A reader that joins in the very moment in which the last one leaves has its bytes."""
    first, second = map(upstream.add_blob, BIG[:2])
    async with bench(connections=1) as b:
        await b.instance.blobs.open(b.place(second))
        upstream.gate = gate = Gate(released=CHUNK)
        reading = asyncio.create_task(b.read(first))
        await gate.blocked()
        leaves = asyncio.create_task(b.read(second))
        await until_flying(b, 2)
        leaves.cancel()
        joins = asyncio.create_task(b.read(second))
        with suppress(asyncio.CancelledError):
            await leaves
        gate.open()
        assert await joins == BIG[1]
        assert await reading == BIG[0]
    assert upstream.most_often(second) == 1
