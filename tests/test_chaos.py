"""The chaos run in small, and that its clients notice what they are there to notice."""

import os
import random
from collections.abc import AsyncIterator

import aiohttp
import pytest

from loadtest.chaos.__main__ import chaos, report
from loadtest.chaos.clients import Client
from loadtest.chaos.truth import Tally, Truth
from registry_proxy.plan.chunks import Span
from tests.fakes.faults import BodyFault, Cut, Garbled, Short
from tests.fakes.upstream import FakeUpstream

MINUTES, CLIENTS = 2.0, 60


@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 2])
async def test_two_minutes_of_random_faults(workers: int) -> None:
    """Faults of upstream, disk, process and clients; no wrong byte, no silent truncation, nothing stuck, all mended by itself."""
    seed = int.from_bytes(os.urandom(4))
    print("seed", seed)
    tally = await chaos(MINUTES / 2, CLIENTS, seed, workers=workers)
    print(report(tally))
    assert tally.wrongs == []
    assert sum(tally.faults.values()) >= 10
    assert tally.bytes > 10_000_000


@pytest.fixture
async def client(upstream: FakeUpstream) -> AsyncIterator[tuple[Client, Tally, Truth]]:
    """A client that talks straight to an upstream, as if that were the instance."""
    truth, tally = Truth(upstream, 1), Tally()
    async with aiohttp.ClientSession(upstream.url, headers={"Accept-Encoding": "identity"}) as session:
        yield Client(session, truth, tally, random.Random(1), 0.0), tally, truth


async def test_what_is_right_is_no_wrong(client: tuple[Client, Tally, Truth]) -> None:
    """Right answers leave nothing behind but their bytes."""
    one, tally, truth = client
    assert await one.whole(0)
    assert await one.span(0, Span(10, 20))
    assert (tally.wrongs, tally.undigested, tally.bytes) == ([], 0, truth.sizes[0] + 10)


@pytest.mark.parametrize(
    ("fault", "said"), [(Garbled(), "wrong bytes in a complete answer"), (Short(10), "truncated")], ids=repr
)
async def test_a_wrong_whole_answer_is_noticed(
    client: tuple[Client, Tally, Truth], upstream: FakeUpstream, fault: BodyFault, said: str
) -> None:
    """Wrong bytes, or too few, in an answer that ends well."""
    one, tally, _ = client
    upstream.spoil(fault)
    await one.whole(0)
    assert said in tally.wrongs[0]


async def test_a_visible_failure_is_none(client: tuple[Client, Tally, Truth], upstream: FakeUpstream) -> None:
    """A cut body and a status are refusals."""
    one, tally, _ = client
    upstream.spoil(Cut(10))
    assert not await one.whole(0)
    upstream.fail("blob", 503)
    assert not await one.whole(0)
    assert tally.wrongs == []
    assert tally.refused == {"ClientPayloadError": 1, "status 503": 1}


async def test_a_wrong_range_counts_by_what_is_known(
    client: tuple[Client, Tally, Truth], upstream: FakeUpstream
) -> None:
    """Before a client has had the blob nobody could know; afterwards it must not happen; a loss of the records undoes that."""
    one, tally, truth = client
    upstream.spoil(Garbled())
    await one.span(0, Span(10, 20))
    assert (tally.undigested, tally.wrongs) == (1, [])
    truth.had_whole(0)
    await one.span(0, Span(10, 20))
    assert "which was verified" in tally.wrongs[0]
    truth.unsure()
    await one.span(0, Span(10, 20))
    assert (tally.undigested, len(tally.wrongs)) == (2, 1)


async def test_what_a_toc_names_must_come_right(client: tuple[Client, Tally, Truth], upstream: FakeUpstream) -> None:
    """Ranges of a layer with a TOC that stay wrong are wrong, also where no digest of the whole has spoken."""
    one, tally, truth = client
    number = truth.listed[0]
    await one.named(number, 0.0)
    assert tally.wrongs == []
    upstream.spoil(Garbled())
    await one.named(number, 0.0)
    assert "stayed wrong" in tally.wrongs[0]


async def test_a_whole_answer_to_a_range_is_noticed(
    client: tuple[Client, Tally, Truth], upstream: FakeUpstream
) -> None:
    """200 to a satisfiable range is wrong, whatever its bytes."""
    one, tally, _ = client
    upstream.ranges = False
    await one.span(0, Span(10, 20))
    assert "status 200" in tally.wrongs[0]


async def test_an_answer_without_an_end_is_noticed(
    client: tuple[Client, Tally, Truth], upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits longer than any limit is stuck."""
    one, tally, _ = client
    monkeypatch.setattr("loadtest.chaos.clients.STUCK", 0.1)
    held = upstream.hold("blob")
    await one.whole(0)
    held.set()
    assert "stuck" in tally.wrongs[0]
