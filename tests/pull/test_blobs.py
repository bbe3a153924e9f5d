"""Blobs through flights, over a real store and a fake upstream."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from registry_proxy.config import Policy
from registry_proxy.errors import BlobUnknown, ContentCorrupt, NoRoom, NotSoon, Offline, Trouble
from registry_proxy.oci.names import Tag
from registry_proxy.plan import readahead
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.ranges import Part
from tests.fakes.faults import Chunked, Cut, Garbled, Gate
from tests.fakes.instance import CHUNK, HOST, Benches, noise
from tests.fakes.upstream import FakeUpstream


async def test_a_cold_range_costs_the_chunks_it_touches(bench: Benches, upstream: FakeUpstream) -> None:
    """A few bytes in the middle of a cold blob cost its chunk, not the blob."""
    data = noise(40 * CHUNK)
    digest = upstream.add_blob(data)
    async with bench() as b:
        assert await b.read(digest, Span(10 * CHUNK + 5, 10 * CHUNK + 105)) == data[10 * CHUNK + 5 : 10 * CHUNK + 105]
    assert upstream.sent_spans(digest) == [Span(10 * CHUNK, 11 * CHUNK)]


async def test_a_warm_range_costs_nothing(bench: Benches, upstream: FakeUpstream) -> None:
    """What was read once is read from the store, also by the next process."""
    data = noise(3 * CHUNK)
    digest = upstream.add_blob(data)
    async with bench() as b:
        await b.read(digest)
    asked = len(upstream.requests)
    async with bench() as b:
        assert await b.read(digest) == data
    assert len(upstream.requests) == asked


@pytest.mark.parametrize("ranges", [True, False])
async def test_many_clients_of_a_cold_blob_cost_one_fetch_of_each_byte(
    bench: Benches, upstream: FakeUpstream, ranges: bool
) -> None:
    """A hundred readers at once, whole and in ranges, and no byte crosses the border twice."""
    upstream.ranges = ranges
    data = noise(50 * CHUNK + 77)
    digest = upstream.add_blob(data)
    spans = [Span(i * 7919 % len(data), len(data)) for i in range(50)] + [
        Span(i * CHUNK, i * CHUNK + 9) for i in range(50)
    ]
    async with bench() as b:
        got = await asyncio.gather(*(b.read(digest, span) for span in spans))
    assert all(one == data[span.start : span.stop] for one, span in zip(got, spans, strict=True))
    assert upstream.most_often(digest) == 1


async def test_scattered_ranges_keep_their_order_and_cost_their_chunks(bench: Benches, upstream: FakeUpstream) -> None:
    """Several spans of one request come in the order asked; each chunk is fetched once."""
    data = noise(64 * CHUNK)
    digest = upstream.add_blob(data)
    spans = [Span(i * CHUNK + 3, i * CHUNK + 300) for i in (40, 2, 3, 17, 40, 63)]
    async with bench() as b:
        assert await b.read(digest, *spans) == b"".join(data[s.start : s.stop] for s in spans)
    assert upstream.sent(digest) == 5 * CHUNK


async def test_a_range_less_stream_is_kept_when_its_reader_leaves(bench: Benches, upstream: FakeUpstream) -> None:
    """The 200 that answers a range is the one download of the blob, whoever goes on waiting for it."""
    upstream.ranges = False
    data = noise(20 * CHUNK)
    digest = upstream.add_blob(data)
    async with bench() as b:
        await b.read(digest, Span(0, 10))
        await upstream.until_sent(digest, len(data))
        assert await b.read(digest, Span(19 * CHUNK, 20 * CHUNK)) == data[19 * CHUNK :]
    assert upstream.sent(digest) == len(data)


async def test_a_late_reader_latches_on_to_a_running_stream(bench: Benches, upstream: FakeUpstream) -> None:
    """Bytes that have arrived are served while the rest is still on its way."""
    upstream.ranges = False
    data = noise(20 * CHUNK)
    digest = upstream.add_blob(data)
    upstream.gate = gate = Gate(released=5 * CHUNK)
    async with bench() as b:
        first = asyncio.create_task(b.read(digest))
        assert await b.read(digest, Span(4 * CHUNK, 5 * CHUNK)) == data[4 * CHUNK : 5 * CHUNK]
        assert not first.done()
        gate.open()
        assert await first == data
    assert upstream.sent(digest) == len(data)


async def test_a_range_less_upstream_starts_the_sibling_layers_of_an_image(
    bench: Benches, upstream: FakeUpstream
) -> None:
    """A lazy client reads the end of each layer; all downloads of the image start with its first ranged read."""
    upstream.ranges = False
    layers = [noise(6 * CHUNK, seed) for seed in range(3)]
    upstream.add_image(layers=layers, tag="v1")
    digests = [upstream.add_blob(layer) for layer in layers]
    async with bench() as b:
        await b.instance.manifests.get(HOST, b.place(digests[0]).repository, Tag("v1"))
        await b.read(digests[0], Span(5 * CHUNK, 6 * CHUNK))
        for digest in digests:
            await upstream.until_sent(digest, 6 * CHUNK)
    assert [upstream.sent(digest) for digest in digests] == [6 * CHUNK] * 3


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_cut_body_is_resumed(bench: Benches, upstream: FakeUpstream, ranges: bool) -> None:
    """A dropped upstream connection costs the client nothing but time."""
    upstream.ranges = ranges
    data = noise(30 * CHUNK)
    digest = upstream.add_blob(data)
    upstream.spoil(Cut(after=10 * CHUNK + 17), times=1)
    async with bench() as b:
        assert await b.read(digest) == data


async def test_wrong_bytes_are_never_served_whole_and_never_kept(bench: Benches, upstream: FakeUpstream) -> None:
    """A blob that does not hash to its digest fails its readers, is dropped, and does not poison the next try."""
    data = noise(5 * CHUNK)
    digest = upstream.add_blob(data)
    upstream.spoil(Garbled(), times=1)
    async with bench() as b:
        with pytest.raises(ContentCorrupt):
            await b.read(digest)
        assert b.instance.store.missing(digest, b.instance.store.grid(len(data))) == 5
        assert await b.read(digest) == data


async def test_a_refetched_chunk_is_checked_against_the_verified_blob(bench: Benches, upstream: FakeUpstream) -> None:
    """The chunk hashes of a verified blob outlive its chunks: a wrong chunk is found even in a range."""
    data = noise(5 * CHUNK)
    digest = upstream.add_blob(data)
    async with bench() as b:
        await b.read(digest)
        await b.instance.store.drop(digest)
        upstream.spoil(Garbled(), times=1)
        with pytest.raises(ContentCorrupt):
            await b.read(digest, Span(CHUNK, 2 * CHUNK))
        assert await b.read(digest, Span(CHUNK, 2 * CHUNK)) == data[CHUNK : 2 * CHUNK]


async def test_an_upstream_that_is_down_fails_readers_quickly(bench: Benches, upstream: FakeUpstream) -> None:
    """All who wait for a flight that found no source fail together."""
    data = noise(20 * CHUNK)
    digest = upstream.add_blob(data)
    async with bench() as b:
        await b.read(digest, Span(0, 10))
        await upstream.stop()
        spans = [Span(i * CHUNK, i * CHUNK + 1) for i in range(1, 20)]
        results = await asyncio.gather(*(b.read(digest, span) for span in spans), return_exceptions=True)
        assert all(isinstance(result, Trouble) for result in results)
        assert await b.read(digest, Span(0, 10)) == data[:10]


async def test_a_missing_blob_is_unknown(bench: Benches, upstream: FakeUpstream) -> None:
    """404 upstream is an answer."""
    digest = upstream.add_blob(b"gone")
    upstream.remove(digest)
    async with bench() as b:
        with pytest.raises(BlobUnknown):
            await b.read(digest)


async def test_an_open_end_is_not_fetched_to_the_end(bench: Benches, upstream: FakeUpstream) -> None:
    """containerd's parallel fetch asks for bytes=N- and leaves after a chunk of its own."""
    data = noise(200 * CHUNK)
    digest = upstream.add_blob(data)
    async with bench(policy=Policy(read_ahead=4 * CHUNK)) as b:
        blob = await b.instance.blobs.open(b.place(digest))
        parts = [Part(Span(0, len(data)), open_ended=True)]
        async with blob.read(parts) as reader, aclosing(reader.pieces(0)) as pieces:
            for _ in range(4):
                await anext(pieces)
    assert 4 * CHUNK <= upstream.sent(digest) <= 16 * CHUNK


async def test_without_room_a_blob_larger_than_the_store_still_streams(bench: Benches, upstream: FakeUpstream) -> None:
    """The store's limit is not the client's trouble."""
    data = noise(40 * CHUNK)
    digest = upstream.add_blob(data)
    async with bench(limit=8 * CHUNK) as b:
        assert await b.read(digest) == data
        assert await b.read(digest, Span(30 * CHUNK, 31 * CHUNK)) == data[30 * CHUNK : 31 * CHUNK]


@pytest.mark.parametrize("order", [range(38, 0, -1), [n * 7919 % 39 for n in range(100)]], ids=["backwards", "jumping"])
async def test_without_room_parts_in_any_order_cost_a_chunk_each(
    bench: Benches, upstream: FakeUpstream, order: Sequence[int]
) -> None:
    """A reader who jumps about gets what it waits for, a chunk for each part once the first run has told that there is no room."""
    data = noise(40 * CHUNK)
    digest = upstream.add_blob(data)
    spans = [Span(index * CHUNK + 5, index * CHUNK + 99) for index in order]
    async with bench(limit=4 * CHUNK) as b:
        assert await b.read(digest, *spans) == b"".join(data[span.start : span.stop] for span in spans)
    assert upstream.sent(digest) <= (len(spans) + 40) * CHUNK


async def test_without_room_a_range_less_blob_still_streams_to_whole_readers(
    bench: Benches, upstream: FakeUpstream
) -> None:
    """A sequential reader of everything shares the one stream; a range far ahead of it is refused."""
    upstream.ranges = False
    data = noise(60 * CHUNK)
    digest = upstream.add_blob(data)
    async with bench(limit=8 * CHUNK) as b:
        both = await asyncio.gather(b.read(digest), b.read(digest))
        assert both == [data, data]
        upstream.gate = gate = Gate(released=2 * CHUNK)
        whole = asyncio.create_task(b.read(digest))
        await gate.blocked()
        with pytest.raises(NoRoom):
            await b.read(digest, Span(50 * CHUNK, 51 * CHUNK))
        gate.open()
        assert await whole == data


async def test_a_span_far_behind_a_slow_stream_is_not_soon(bench: Benches, upstream: FakeUpstream) -> None:
    """A client gets 503 with Retry-After rather than headers and a wait it will not survive."""
    upstream.ranges = False
    upstream.bytes_per_second = 4 * CHUNK
    data = noise(200 * CHUNK)
    digest = upstream.add_blob(data)
    async with bench(policy=Policy(patience=5)) as b:
        with pytest.raises(NotSoon) as caught:
            await b.read(digest, Span(199 * CHUNK, 200 * CHUNK))
    assert 1 <= caught.value.retry_after <= 10


async def test_offline_serves_what_is_kept_and_refuses_the_rest(bench: Benches, upstream: FakeUpstream) -> None:
    """The offline switch asks nobody."""
    data = noise(3 * CHUNK)
    digest = upstream.add_blob(data)
    async with bench() as b:
        await b.read(digest, Span(0, CHUNK))
    asked = len(upstream.requests)
    async with bench(policy=Policy(offline=True)) as b:
        assert await b.read(digest, Span(0, 100)) == data[:100]
        with pytest.raises(Offline):
            await b.read(digest, Span(CHUNK, CHUNK + 1))
    assert len(upstream.requests) == asked


async def test_over_a_long_way_a_reader_has_several_runs_at_a_time(
    bench: Benches, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where answers take long to begin, one connection's window does not cap a pull; no byte is fetched twice for that."""
    monkeypatch.setattr(readahead, "LONG_WAIT", 0.0)
    data = noise(5 * readahead.FIRST_RUN)
    digest = upstream.add_blob(data)
    upstream.gate = gate = Gate(released=0)
    async with bench() as b:
        task = asyncio.create_task(b.read(digest))
        await upstream.until_asked(readahead.ABREAST, "blob", "GET")
        gate.open()
        assert await task == data
    assert upstream.most_often(digest) == 1


async def test_a_reader_that_leaves_ends_a_ranged_fetch(bench: Benches, upstream: FakeUpstream) -> None:
    """Last one out: a ranged flight stops at the next chunk."""
    data = noise(100 * CHUNK)
    digest = upstream.add_blob(data)
    upstream.gate = gate = Gate(released=3 * CHUNK)
    async with bench() as b:
        task = asyncio.create_task(b.read(digest))
        await gate.blocked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        assert await b.read(digest, Span(90 * CHUNK, 90 * CHUNK + 1)) == data[90 * CHUNK : 90 * CHUNK + 1]


async def test_an_empty_blob_is_read_without_a_flight(bench: Benches, upstream: FakeUpstream) -> None:
    """There is nothing to fetch."""
    digest = upstream.add_blob(b"")
    async with bench() as b:
        assert await b.read(digest) == b""


async def test_chunks_that_vanish_from_the_disk_are_fetched_again(
    bench: Benches, upstream: FakeUpstream, tmp_path: Path
) -> None:
    """The store may believe in chunks that somebody has removed: who misses one gets it from upstream, once."""
    data = noise(6 * CHUNK)
    digest = upstream.add_blob(data)
    async with bench() as b:
        assert await b.read(digest, Span(0, 5 * CHUNK)) == data[: 5 * CHUNK]
        await asyncio.to_thread(shutil.rmtree, tmp_path / "store" / "chunks")
        assert await b.read(digest, Span(2 * CHUNK, 4 * CHUNK)) == data[2 * CHUNK : 4 * CHUNK]
    assert upstream.sent(digest) <= 8 * CHUNK


async def test_a_lie_about_a_size_is_never_proved_by_an_answer_that_says_none(
    bench: Benches, upstream: FakeUpstream
) -> None:
    """A body of unknown length proves no size: what a manifest claims of it does not become what other repositories are told."""
    upstream.ranges = False
    upstream.spoil(Chunked())
    data = noise(6 * CHUNK)
    digest = upstream.add_blob(data)
    upstream.add_blob(data, repository="other/app")
    layers = [{"digest": str(digest), "size": 5 * CHUNK}]
    upstream.add_manifest(json.dumps({"schemaVersion": 2, "layers": layers}).encode(), tag="v1")
    async with bench() as b:
        await b.instance.manifests.get(HOST, b.place(digest).repository, Tag("v1"))
        assert await b.read(digest, Span(0, 10)) == data[:10]
        while b.instance.blobs._heart.flying:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert (await b.instance.blobs.open(b.place(digest, "other/app"))).size == len(data)
        assert await b.read(digest) == data
