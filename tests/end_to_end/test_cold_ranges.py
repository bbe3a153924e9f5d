"""Ranges over cold blobs, over real sockets, with ranged and range-less upstreams."""

import asyncio
import random

import pytest

from registry_proxy.config import Policy
from tests.fakes.faults import Chunked, Cut, Encoded, Endless, Garbled, Gate, LoginPage, Long, Short, WrongRange
from tests.fakes.instance import CHUNK, HOST, Benches, noise
from tests.fakes.upstream import REPOSITORY, FakeUpstream

SIZE = 20 * CHUNK + 4321
DATA = noise(SIZE)
NS = f"?ns={HOST}"


def blob(digest: object) -> str:
    """The path of a blob."""
    return f"/v2/{REPOSITORY}/blobs/{digest}{NS}"


@pytest.fixture(params=["ranged", "range-less"])
def either(request: pytest.FixtureRequest, upstream: FakeUpstream) -> FakeUpstream:
    """An upstream with ranges, and one without."""
    upstream.ranges = request.param == "ranged"
    return upstream


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("500-1499", 500, 1500),
        ("500-", 500, SIZE),
        ("-500", SIZE - 500, SIZE),
        (f"{SIZE - 10}-{SIZE + 5000}", SIZE - 10, SIZE),
        ("0-0", 0, 1),
        (f"{CHUNK - 1}-{CHUNK}", CHUNK - 1, CHUNK + 1),
        (f"0-{SIZE - 1}", 0, SIZE),
    ],
)
async def test_a_single_range_of_a_cold_blob(
    bench: Benches, either: FakeUpstream, asked: str, start: int, stop: int
) -> None:
    """RFC 9110 §14.2: 206 with exactly the bytes asked for, clipped at the end of the blob."""
    digest = either.add_blob(DATA)
    async with bench(listen=True) as b, b.wire() as wire:
        answer = await wire.ask(blob(digest), f"Range: bytes={asked}")
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Docker-Content-Digest"] == str(digest)
    assert answer.body == DATA[start:stop]


@pytest.mark.parametrize("asked", ["500-0", f"{SIZE}-", f"{SIZE + 10}-{SIZE + 20}", "-0"])
async def test_an_unsatisfiable_range_costs_no_byte(bench: Benches, either: FakeUpstream, asked: str) -> None:
    """416 names the size; nothing is fetched for it."""
    digest = either.add_blob(DATA)
    async with bench(listen=True) as b, b.wire() as wire:
        answer = await wire.ask(blob(digest), f"Range: bytes={asked}")
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{SIZE}")
    assert either.sent(digest) == 0


async def test_a_thousand_ranges_of_a_cold_blob_come_in_the_order_asked(bench: Benches, either: FakeUpstream) -> None:
    """1,024 ranges in one header: as many parts, in that order, none merged, each chunk fetched once."""
    digest = either.add_blob(DATA)
    starts = random.Random(1).sample(range(0, SIZE - 40, 41), 1024)
    asked = ",".join(f"{start:012d}-{start + 19:012d}" for start in starts)
    async with bench(listen=True) as b, b.wire() as wire:
        answer = await wire.ask(blob(digest), f"Range: bytes={asked}")
    assert len(asked) > 25_000
    assert answer.status == 206
    assert [body for _, body in answer.parts] == [DATA[start : start + 20] for start in starts]
    assert either.most_often(digest) == 1


async def test_spans_that_sum_to_more_than_the_blob_are_refused(bench: Benches, either: FakeUpstream) -> None:
    """400 makes the clients ask for less."""
    digest = either.add_blob(DATA)
    async with bench(listen=True) as b, b.wire() as wire:
        answer = await wire.ask(blob(digest), f"Range: bytes=0-{SIZE - 1},0-0")
    assert answer.status == 400
    assert either.sent(digest) == 0


async def test_a_blob_of_no_bytes(bench: Benches, either: FakeUpstream) -> None:
    """Zero-length blobs exist: 200 with nothing, 416 for any range."""
    digest = either.add_blob(b"")
    async with bench(listen=True) as b, b.wire() as wire:
        whole = await wire.ask(blob(digest))
        part = await wire.ask(blob(digest), "Range: bytes=0-")
    assert (whole.status, whole.headers["Content-Length"], whole.body) == (200, "0", b"")
    assert (part.status, part.headers["Content-Range"]) == (416, "bytes */0")


async def test_a_manifest_has_ranges_too(bench: Benches, either: FakeUpstream) -> None:
    """containerd's parallel fetch puts ``Range: bytes=0-`` on manifests."""
    digest = either.add_image(tag="v1")
    body = either.content[digest]
    async with bench(listen=True) as b, b.wire() as wire:
        answer = await wire.ask(f"/v2/{REPOSITORY}/manifests/{digest}{NS}", "Range: bytes=0-")
    assert (answer.status, answer.body) == (206, body)


async def test_a_hundred_clients_with_random_ranges_of_three_cold_blobs(bench: Benches, either: FakeUpstream) -> None:
    """Each upstream byte is fetched once: at most 1.02 times the distinct chunks that were asked for."""
    blobs = [noise(SIZE + i, i) for i in range(3)]
    digests = [either.add_blob(data) for data in blobs]
    rng = random.Random(7)

    async def client() -> None:
        async with b.wire() as wire:
            for _ in range(4):
                which = rng.randrange(3)
                start = rng.randrange(SIZE - 1)
                stop = min(SIZE, start + rng.choice((100, CHUNK, 5 * CHUNK)))
                answer = await wire.ask(blob(digests[which]), f"Range: bytes={start}-{stop - 1}")
                assert answer.status == 206
                assert answer.body == blobs[which][start:stop]
                wanted[which].update(range(start // CHUNK, (stop - 1) // CHUNK + 1))

    wanted: list[set[int]] = [set(), set(), set()]
    async with bench(listen=True) as b:
        await asyncio.gather(*(client() for _ in range(100)))
        if not either.ranges:
            for digest, data in zip(digests, blobs, strict=True):
                await either.until_sent(digest, len(data))
    sent = sum(either.sent(digest) for digest in digests)
    asked = sum(len(one) * CHUNK for one in wanted) if either.ranges else sum(len(data) for data in blobs)
    assert sent <= 1.02 * asked


async def test_scattered_reads_cost_no_more_than_the_chunks_they_touch(bench: Benches, upstream: FakeUpstream) -> None:
    """No blind read-ahead: a random reader pays for its chunks only."""
    digest = upstream.add_blob(DATA)
    async with bench(listen=True) as b, b.wire() as wire:
        for index in (13, 2, 7, 19, 4):
            await wire.ask(blob(digest), f"Range: bytes={index * CHUNK + 100}-{index * CHUNK + 199}")
    assert upstream.sent(digest) == 5 * CHUNK


async def test_the_first_byte_of_a_cold_range_waits_for_one_chunk_only(bench: Benches, upstream: FakeUpstream) -> None:
    """A reader of many chunks has its first bytes while the upstream still holds back the second chunk."""
    digest = upstream.add_blob(DATA)
    upstream.gate = gate = Gate(released=CHUNK)
    async with bench(listen=True) as b, b.wire() as wire:
        wire.send(blob(digest), f"Range: bytes=0-{10 * CHUNK - 1}")
        status, _ = await wire.head()
        first = await wire.reader.readexactly(CHUNK)
        await gate.blocked()
        gate.open()
        rest = await wire.reader.readexactly(9 * CHUNK)
    assert status == 206
    assert first + rest == DATA[: 10 * CHUNK]


async def test_a_late_client_of_a_range_less_download_has_its_bytes_as_they_arrive(
    bench: Benches, upstream: FakeUpstream
) -> None:
    """At any offset that the running download has passed, bytes come while it runs."""
    upstream.ranges = False
    digest = upstream.add_blob(DATA)
    upstream.gate = gate = Gate(released=8 * CHUNK)
    async with bench(listen=True) as b, b.wire() as early, b.wire() as late:
        early.send(blob(digest), "Range: bytes=-10")
        await gate.blocked()
        for index in (7, 0, 3):
            answer = await late.ask(blob(digest), f"Range: bytes={index * CHUNK}-{index * CHUNK + 9}")
            assert answer.body == DATA[index * CHUNK : index * CHUNK + 10]
        gate.open()
        assert (await early.answer()).body == DATA[-10:]
    assert upstream.sent(digest) == SIZE


@pytest.mark.parametrize(
    "fault",
    [
        Short(by=10),
        Long(by=10),
        Endless(),
        Garbled(),
        WrongRange("bytes 7-9/1000"),
        WrongRange("nonsense"),
        Encoded(),
        Chunked(),
        LoginPage(),
        Cut(after=3 * CHUNK),
    ],
    ids=repr,
)
async def test_nonsense_never_reaches_a_client_as_success_and_is_never_kept(
    bench: Benches, either: FakeUpstream, fault: object
) -> None:
    """Whatever an upstream sends, a whole answer is right or visibly fails, and the next try is right."""
    digest = either.add_blob(DATA)
    either.spoil(fault, times=1)  # type: ignore[arg-type]
    async with bench(listen=True) as b:
        async with b.wire() as wire:
            try:
                answer = await wire.ask(blob(digest))
            except (ConnectionError, asyncio.IncompleteReadError):
                answer = None
        if answer is not None and answer.complete and answer.status == 200:
            assert answer.body == DATA
        async with b.wire() as wire:
            assert (await wire.ask(blob(digest))).body == DATA


async def test_wrong_bytes_of_a_whole_answer_are_cut_before_the_end(bench: Benches, upstream: FakeUpstream) -> None:
    """A whole answer holds back its end until the digest is right: the client never sees a wrong blob complete."""
    digest = upstream.add_blob(DATA)
    upstream.spoil(Garbled())
    async with bench(listen=True) as b, b.wire() as wire:
        answer = await wire.ask(blob(digest))
    assert (answer.status, answer.complete) == (200, False)


async def test_an_unreachable_upstream_is_said_with_an_error_body(bench: Benches, upstream: FakeUpstream) -> None:
    """502 with an OCI error, not a cut connection, when nothing had been promised yet."""
    digest = upstream.add_blob(DATA)
    await upstream.stop()
    async with bench(listen=True) as b, b.wire() as wire:
        answer = await wire.ask(blob(digest), "Range: bytes=0-9")
    assert answer.status == 502
    assert answer.codes == ["UNKNOWN"]


async def test_a_range_that_is_far_away_gets_503_and_retry_after(bench: Benches, upstream: FakeUpstream) -> None:
    """Patience: no headers for bytes that will not come in time."""
    upstream.ranges = False
    upstream.bytes_per_second = 2 * CHUNK
    digest = upstream.add_blob(DATA)
    async with bench(listen=True, policy=Policy(patience=2)) as b, b.wire() as wire:
        answer = await wire.ask(blob(digest), "Range: bytes=-10")
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
