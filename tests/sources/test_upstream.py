"""Spans of blobs from upstreams of every kind, and bodies that go wrong."""

import asyncio
import os

import pytest

from registry_proxy.config import Timeouts
from registry_proxy.errors import BlobUnknown, RegistryProxyError, UpstreamBroken, UpstreamUnreachable
from registry_proxy.net.upstream import UpstreamClient
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from registry_proxy.sources.base import Priority, Urgency
from registry_proxy.sources.upstream import UpstreamSource
from registry_proxy.telemetry.metrics import Metrics
from tests.fakes.clients import HOST, client_for, place
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
from tests.fakes.upstream import FakeUpstream

SIZE = 300_000
DATA = os.urandom(SIZE)
SPAN = Span(100_000, 200_000)


class Memory:
    """Remembers range-less hosts for ever."""

    def __init__(self) -> None:
        self.noted: set[str] = set()

    def get(self, key: str) -> bool:
        return key in self.noted

    def note(self, key: str) -> None:
        self.noted.add(key)


def source_for(client: UpstreamClient, memory: Memory | None = None) -> UpstreamSource:
    return UpstreamSource({HOST: client}, memory or Memory(), Metrics())


class Got:
    """What one opening brought."""

    def __init__(self) -> None:
        self.body = b""
        self.span: Span | None = None
        self.ranged: bool | None = None
        self.total = 0
        self.origin = ""


async def fetch(
    source: UpstreamSource, digest: Digest, span: Span | None, size: int | None = SIZE, into: Got | None = None
) -> Got:
    got = into or Got()
    async with source.open(place(digest), span, size, Urgency(Priority.FOREGROUND)) as delivery:
        got.span, got.ranged, got.total = delivery.span, delivery.ranged, delivery.total
        got.origin = delivery.origin
        async for data in delivery:
            got.body += data
    return got


# --- what comes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("redirect", [False, True])
@pytest.mark.parametrize("size", [SIZE, None])
async def test_span_of_a_ranged_upstream(redirect: bool, size: int | None) -> None:
    """Exactly the bytes asked for come, and no others are sent."""
    async with FakeUpstream(redirect=redirect) as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        got = await fetch(source_for(client), digest, SPAN, size)
        assert (got.span, got.ranged, got.total) == (SPAN, True, SIZE)
        assert got.body == DATA[SPAN.start : SPAN.stop]
        assert got.origin == upstream.url_of("storage" if redirect else "registry")
        assert upstream.sent(digest) == len(SPAN)


@pytest.mark.parametrize("span", [SPAN, None, Span(0, SIZE), Span(0, 0)])
async def test_whole_of_a_range_less_upstream(span: Span | None) -> None:
    """Whatever is asked for, the whole blob comes, and the delivery says so."""
    async with FakeUpstream(ranges=False) as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        got = await fetch(source_for(client), digest, span)
        assert (got.span, got.ranged, got.total) == (Span(0, SIZE), False, SIZE)
        assert got.body == DATA


@pytest.mark.parametrize("size", [0, None])
async def test_empty_blob(size: int | None) -> None:
    """A blob without bytes comes without bytes."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        got = await fetch(source_for(client), upstream.add_blob(b""), Span(0, 0), size)
        assert (got.body, got.span) == (b"", Span(0, 0))


async def test_whole_of_unknown_size() -> None:
    """A blob whose size is not known brings its size along."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        got = await fetch(source_for(client), upstream.add_blob(DATA), None, None)
        assert (got.body, got.total) == (DATA, SIZE)


async def test_span_beyond_the_end_of_unknown_size() -> None:
    """Where the size is not known, the end of the span may lie beyond the blob's."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        got = await fetch(source_for(client), upstream.add_blob(b"short"), Span(0, 1000), None)
        assert (got.span, got.total, got.body) == (Span(0, 5), 5, b"short")


async def test_chunked_body_of_known_size() -> None:
    """A body without a Content-Length is taken if the size is known."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        upstream.spoil(Chunked())
        assert (await fetch(source_for(client), digest, SPAN)).body == DATA[SPAN.start : SPAN.stop]
        assert (await fetch(source_for(client), digest, None)).body == DATA


async def test_received_bytes_are_counted() -> None:
    """The bytes that come are counted by upstream."""
    metrics = Metrics()
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        source = UpstreamSource({HOST: client}, Memory(), metrics)
        await fetch(source, upstream.add_blob(DATA), SPAN)
    assert b'registry_proxy_fetched_bytes_total{upstream="fake.example"} 100000.0' in metrics.exposition()


# --- range-lessness ----------------------------------------------------------------------------------------------------


async def test_range_lessness_is_learned() -> None:
    """After two whole answers to a Range no Range is sent any more, and a new process learns it from one."""
    memory = Memory()
    async with FakeUpstream(ranges=False, redirect=True) as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        source = source_for(client, memory)
        for known in (False, True, True):
            await fetch(source, digest, SPAN)
            assert source.rangeless(HOST) is known
        assert [each.range is None for each in upstream.asked("storage")] == [False, False, True]
        restarted = source_for(client, memory)
        assert not restarted.rangeless(HOST)
        await fetch(restarted, digest, SPAN)
        assert restarted.rangeless(HOST)


async def test_one_whole_answer_is_no_proof() -> None:
    """A host that honours a Range in between is not taken for range-less, nor one that was asked for everything."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        source = source_for(client)
        for ranges in (False, True, False):
            upstream.ranges = ranges
            await fetch(source, digest, SPAN)
        await fetch(source, digest, Span(0, SIZE))
        assert not source.rangeless(HOST)


@pytest.mark.parametrize("status", [400, 501])
async def test_refused_range_is_asked_for_whole(status: int) -> None:
    """An upstream that refuses ranges is asked again without one, and that is remembered, too."""
    async with FakeUpstream(range_refusal=status) as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        source = source_for(client)
        for _ in range(3):
            got = await fetch(source, digest, SPAN)
            assert (got.body, got.ranged) == (DATA, False)
        assert [each.range is None for each in upstream.asked("blob")] == [False, True, False, True, True]


# --- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [SPAN, None])
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Short(7), UpstreamBroken),
        (Long(7), UpstreamBroken),
        (Endless(), UpstreamBroken),
        (Encoded(), UpstreamBroken),
        (LoginPage(), UpstreamBroken),
        (Cut(50_000), UpstreamUnreachable),
        (Cut(0), UpstreamUnreachable),
    ],
    ids=str,
)
async def test_bodies_that_go_wrong(fault: BodyFault, error: type[RegistryProxyError], span: Span | None) -> None:
    """A short, long, endless, encoded, foreign or cut body raises, and never more than was asked for is handed on."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        upstream.spoil(fault)
        got = Got()
        with pytest.raises(error):
            await fetch(source_for(client), digest, span, into=got)
        wanted = DATA[span.start : span.stop] if span else DATA
        assert wanted.startswith(got.body)


@pytest.mark.parametrize("fault", [Endless(), LoginPage()], ids=str)
async def test_bodies_that_tell_no_size(fault: BodyFault) -> None:
    """Where the size is not known, an answer that does not tell it, or is a web page, is refused before any byte."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        upstream.spoil(fault)
        got = Got()
        with pytest.raises(UpstreamBroken):
            await fetch(source_for(client), digest, None, None, into=got)
        assert got.span is None


@pytest.mark.parametrize(
    "header",
    [
        f"bytes 0-99999/{SIZE}",
        f"bytes 100000-199998/{SIZE}",
        f"bytes 100000-200000/{SIZE}",
        f"bytes 100000-199999/{SIZE + 1}",
        "bytes 100000-199999/*",
        f"bytes */{SIZE}",
        "bytes 100000-199999/5",
        "items 1-2/3",
        "",
    ],
)
async def test_wrong_content_range(header: str) -> None:
    """A 206 that says it brings anything but what was asked for is refused before any byte."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        upstream.spoil(WrongRange(header))
        got = Got()
        with pytest.raises(UpstreamBroken):
            await fetch(source_for(client), digest, SPAN, into=got)
        assert got.span is None


async def test_wrong_size() -> None:
    """A blob of another size than is known is refused, in part and whole, and 416 inside the blob is, too."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(b"x" * 150_000)
        for span in (Span(0, 10), None, Span(200_000, 200_010)):
            with pytest.raises(UpstreamBroken):
                await fetch(source_for(client), digest, span)


async def test_parts_nobody_asked_for() -> None:
    """206 to a request without a Range is refused."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        upstream.fail("blob", 206, body=b"x" * 10, headers={"Content-Range": "bytes 0-9/10"})
        with pytest.raises(UpstreamBroken):
            await fetch(source_for(client), Digest.of(b""), None, 10)


async def test_multipart_nobody_asked_for() -> None:
    """A multipart answer to one range is refused."""
    headers = {"Content-Range": f"bytes 0-9/{SIZE}", "Content-Type": "multipart/byteranges; boundary=x"}
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        upstream.fail("blob", 206, body=b"x" * 10, headers=headers)
        with pytest.raises(UpstreamBroken):
            await fetch(source_for(client), Digest.of(b""), Span(0, 10))


async def test_wrong_bytes_are_the_flights_business() -> None:
    """The right number of wrong bytes passes: only a digest can tell."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        upstream.spoil(Garbled())
        assert len((await fetch(source_for(client), digest, None)).body) == SIZE


async def test_unknown_blob() -> None:
    """A blob that the repository has not got is unknown."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        with pytest.raises(BlobUnknown):
            await fetch(source_for(client), Digest.of(b"nowhere"), SPAN)


async def test_stalled_body() -> None:
    """A body that stalls is given up on after the idle timeout, with what came before."""
    async with (
        FakeUpstream(gate=Gate(1000)) as upstream,
        client_for(upstream, timeouts=Timeouts(idle=0.1)) as client,
    ):
        digest = upstream.add_blob(DATA)
        got = Got()
        with pytest.raises(UpstreamUnreachable):
            await fetch(source_for(client), digest, SPAN, into=got)
        assert got.body == DATA[SPAN.start : SPAN.start + 1000]


async def test_rest_after_a_cut() -> None:
    """After a cut a new opening brings the rest, and each byte has come once."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        upstream.spoil(Cut(30_000), times=1)
        got = Got()
        with pytest.raises(UpstreamUnreachable):
            await fetch(source_for(client), digest, SPAN, into=got)
        rest = Span(SPAN.start + len(got.body), SPAN.stop)
        assert got.body + (await fetch(source_for(client), digest, rest)).body == DATA[SPAN.start : SPAN.stop]
        assert upstream.most_often(digest) == 1


# --- who goes first ----------------------------------------------------------------------------------------------------


async def test_raised_urgency_overtakes() -> None:
    """A queued prefetch that a reader joins goes before the other prefetches."""
    async with FakeUpstream(gate=Gate()) as upstream, client_for(upstream, connections=1) as client:
        source = source_for(client)
        blobs = [upstream.add_blob(bytes([number]) * SIZE) for number in range(3)]
        urgencies = [Urgency(Priority.PREFETCH) for _ in blobs]

        async def take(digest: Digest, urgency: Urgency) -> None:
            async with source.open(place(digest), None, SIZE, urgency):
                pass

        async with asyncio.TaskGroup() as group:
            held = await held_open(source, upstream)
            for digest, urgency in zip(blobs, urgencies, strict=True):
                group.create_task(take(digest, urgency))
            await asyncio.sleep(0)
            urgencies[2].raise_to(Priority.FOREGROUND)
            held.cancel()
        paths = [each.path.rpartition("/")[2] for each in upstream.asked("blob")][1:]
        assert paths == [str(blobs[2]), str(blobs[0]), str(blobs[1])]


async def held_open(source: UpstreamSource, upstream: FakeUpstream) -> "asyncio.Task[None]":
    """A task that holds the only slot until it is cancelled."""
    digest = upstream.add_blob(os.urandom(SIZE))
    opened = asyncio.Event()

    async def hold() -> None:
        async with source.open(place(digest), None, SIZE, Urgency(Priority.FOREGROUND)):
            opened.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await opened.wait()
    return task


async def test_small_blobs_do_not_wait_behind_layers() -> None:
    """A config is fetched while every slot for large bodies is taken."""
    async with FakeUpstream() as upstream, client_for(upstream, connections=1) as client:
        source = source_for(client)
        held = await held_open(source, upstream)
        config = upstream.add_blob(b"{}")
        assert (await fetch(source, config, Span(0, 2), 2)).body == b"{}"
        held.cancel()
        await asyncio.wait([held])
