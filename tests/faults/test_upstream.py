"""Everything that an upstream can do wrong, beside what is cached: right bytes or a failure that shows, soon, and all is well again by itself."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import stamina

from registry_proxy.config import Policy, Timeouts
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from registry_proxy.pull import flight
from tests.fakes.faults import Chunked, Cut, Encoded, Endless, Garbled, Gate, LoginPage, Long, Short, WrongRange
from tests.fakes.instance import CHUNK, HOST, Bench, Benches, noise
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.faults.conftest import QUICKLY, right, right_at_last

WARM, COLD, HALF = noise(3 * CHUNK + 5, 1), noise(9 * CHUNK + 7, 2), noise(8 * CHUNK, 3)
TIMEOUTS = Timeouts(connect=1, header=0.3, idle=0.3)
Fault = Callable[[FakeUpstream], AsyncIterator[None]]


async def refuses(upstream: FakeUpstream) -> AsyncIterator[None]:
    """No connection is taken."""
    await upstream.stop()
    yield
    await upstream.come_back()


async def says_nothing(upstream: FakeUpstream) -> AsyncIterator[None]:
    """Requests are not answered."""
    upstream.hold("blob")
    yield
    upstream.heal()


async def hangs_up(upstream: FakeUpstream) -> AsyncIterator[None]:
    """Connections are closed instead of answers."""
    upstream.drop("blob")
    yield
    upstream.heal()


async def stalls(upstream: FakeUpstream) -> AsyncIterator[None]:
    """Bodies stop after a chunk and a half."""
    upstream.gate = Gate(released=CHUNK + CHUNK // 2)
    yield
    upstream.gate = None


async def is_slow(upstream: FakeUpstream) -> AsyncIterator[None]:
    """Bodies trickle."""
    upstream.bytes_per_second, upstream.piece = 2_000_000, 10_000
    yield
    upstream.bytes_per_second = None


async def redirects_for_ever(upstream: FakeUpstream) -> AsyncIterator[None]:
    """Each blob leads to itself."""
    upstream.fail("blob", 307, headers={"Location": f"{upstream.url}/v2/{REPOSITORY}/blobs/sha256:{'0' * 64}"})
    yield
    upstream.heal()


async def forgets_its_signatures(upstream: FakeUpstream) -> AsyncIterator[None]:
    """Blobs lie elsewhere, and each signed URL that was given out has expired when it is used again."""
    upstream.redirect = upstream.fleeting = True
    yield
    upstream.redirect = upstream.fleeting = False


async def has_another_validator(upstream: FakeUpstream) -> AsyncIterator[None]:
    """The ETag of everything has changed."""
    upstream.etag = '"another"'
    yield
    upstream.etag = None


async def loses_its_ranges(upstream: FakeUpstream) -> AsyncIterator[None]:
    """200 with everything, or 206, by turns."""
    upstream.ranges = not upstream.ranges
    yield
    upstream.ranges = not upstream.ranges


def answers(status: int) -> Fault:
    """This status to every blob."""

    async def fault(upstream: FakeUpstream) -> AsyncIterator[None]:
        upstream.fail("blob", status, headers={"Retry-After": "1"} if status == 429 else {})
        yield
        upstream.heal()

    fault.__name__ = f"answers_{status}"
    return fault


def sends(spoiled: object) -> Fault:
    """Every body goes wrong in this way."""

    async def fault(upstream: FakeUpstream) -> AsyncIterator[None]:
        upstream.spoil(spoiled)  # type: ignore[arg-type]
        yield
        upstream.heal()

    fault.__name__ = repr(spoiled)
    return fault


FAULTS: list[Fault] = [
    refuses,
    says_nothing,
    hangs_up,
    stalls,
    is_slow,
    redirects_for_ever,
    forgets_its_signatures,
    has_another_validator,
    loses_its_ranges,
    *(answers(status) for status in (401, 403, 404, 408, 416, 429, 500, 502, 503, 504)),
    *map(
        sends,
        (
            Cut(after=CHUNK + 3),
            Cut(after=0),
            Short(by=10),
            Long(by=10),
            Endless(),
            Garbled(),
            WrongRange("bytes 7-9/1000"),
            WrongRange("nonsense"),
            Encoded(),
            Chunked(),
            LoginPage(),
        ),
    ),
]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing rests between two tries."""
    monkeypatch.setattr(flight, "_PAUSES", tuple(0.01 for _ in flight._PAUSES))
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture(params=[True, False], ids=["ranged", "range-less"])
def either(request: pytest.FixtureRequest, upstream: FakeUpstream) -> FakeUpstream:
    """An upstream with ranges, and one without."""
    upstream.ranges = request.param
    return upstream


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_what_is_cached_goes_on_and_what_is_not_fails_visibly_or_comes(
    bench: Benches, either: FakeUpstream, fault: Fault
) -> None:
    """Hits do not notice; whoever misses gets right bytes or a failure, quickly; once the upstream is well so is everything."""
    warm, cold = either.add_blob(WARM), either.add_blob(COLD)
    async with bench(listen=True, timeouts=TIMEOUTS, policy=Policy(patience=2)) as b:
        assert await right(b, warm, WARM)
        async with asynccontextmanager(fault)(either):
            whole = asyncio.create_task(right(b, cold, COLD))
            for _ in range(3):
                assert await right(b, warm, WARM)
                assert await right(b, warm, WARM, Span(CHUNK - 5, CHUNK + 5))
            await whole
        await right_at_last(b, cold, COLD)
        await right_at_last(b, cold, COLD, Span(5 * CHUNK - 5, 5 * CHUNK + 5))


@pytest.mark.parametrize(
    "fault",
    [is_slow, forgets_its_signatures, has_another_validator, loses_its_ranges, sends(Chunked())],
    ids=lambda fault: fault.__name__,
)
async def test_what_can_be_helped_is_helped(bench: Benches, either: FakeUpstream, fault: Fault) -> None:
    """Nobody who misses sees anything of it: parts come, and then the whole."""
    cold = either.add_blob(COLD)
    async with bench(listen=True, timeouts=TIMEOUTS) as b, asynccontextmanager(fault)(either):
        for index in (5, 2):
            assert await right(b, cold, COLD, Span(index * CHUNK - 5, index * CHUNK + 5))
        assert await right(b, cold, COLD)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_a_blob_that_is_half_there_stays_half_there(bench: Benches, upstream: FakeUpstream, fault: Fault) -> None:
    """Chunks of an unfinished blob are served whatever the upstream does; it is finished when that is well again."""
    half = upstream.add_blob(HALF)
    async with bench(listen=True, timeouts=TIMEOUTS, policy=Policy(patience=2)) as b:
        assert await right(b, half, HALF, Span(0, 2 * CHUNK))
        sent = upstream.sent(half)
        async with asynccontextmanager(fault)(upstream):
            assert await right(b, half, HALF, Span(CHUNK, 2 * CHUNK))
            assert upstream.sent(half) == sent
        await right_at_last(b, half, HALF)


async def test_a_failure_is_told_to_everybody_who_waits(bench: Benches, upstream: FakeUpstream) -> None:
    """Fifty clients of a blob whose upstream hangs up all have their failure, and the blob after that."""
    cold = upstream.add_blob(COLD)
    upstream.drop("blob")
    async with bench(listen=True, timeouts=TIMEOUTS) as b, asyncio.timeout(2 * QUICKLY):
        assert not any(await asyncio.gather(*(right(b, cold, COLD) for _ in range(50))))
        upstream.heal()
        assert all(await asyncio.gather(*(right(b, cold, COLD) for _ in range(50))))


@pytest.mark.parametrize("silent", ["manifest", "token", "blob", "storage"])
async def test_a_crowd_before_an_upstream_that_says_nothing(
    bench: Benches, upstream: FakeUpstream, silent: str
) -> None:
    """A hundred clients who want a hundred things of it, and get a few slots, have all failed once the first few have, and soon."""
    upstream.auth = "bearer" if silent == "token" else None
    upstream.redirect = silent == "storage"
    kind = "blobs" if silent in {"blob", "storage"} else "manifests"
    blobs = {
        name: upstream.add_blob(noise(CHUNK), repository=name) for name in (f"a/{number}" for number in range(100))
    }
    upstream.hold(silent)

    async def ask(b: Bench, repository: str, digest: Digest) -> int:
        async with b.wire() as wire:
            return (await wire.ask(f"/v2/{repository}/{kind}/{digest}?ns={HOST}")).status

    async with bench(listen=True, timeouts=Timeouts(connect=0.6, header=0.6, idle=5)) as b:
        async with asyncio.timeout(QUICKLY):
            assert set(await asyncio.gather(*(ask(b, *each) for each in blobs.items()))) == {502}
        assert len(upstream.asked(silent)) < 50
        upstream.heal()


async def test_wrong_bytes_in_a_range_are_found_and_evicted_when_the_blob_completes(
    bench: Benches, upstream: FakeUpstream
) -> None:
    """No digest covers a range of a blob that was never whole: what was wrong in it goes as soon as the digest can tell."""
    cold = upstream.add_blob(COLD)
    span = Span(10, 20)
    async with bench(listen=True) as b:
        upstream.spoil(Garbled(), times=1)
        async with b.wire() as wire:
            answer = await wire.ask(f"/v2/{REPOSITORY}/blobs/{cold}?ns={HOST}", "Range: bytes=10-19")
        assert answer.body != COLD[10:20]
        assert not await right(b, cold, COLD)
        await right_at_last(b, cold, COLD)
        assert await right(b, cold, COLD, span)


async def test_a_name_that_does_not_resolve_leaves_the_cache_as_it_is(bench: Benches, upstream: FakeUpstream) -> None:
    """DNS fails: 502 for what is missing, the cache for what is not."""
    warm, cold = upstream.add_blob(WARM), upstream.add_blob(COLD)
    async with bench(listen=True) as b:
        assert await right(b, warm, WARM)
    async with bench(listen=True, urls=("http://no-such-host.invalid",)) as b:
        assert await right(b, warm, WARM)
        assert not await right(b, cold, COLD)


async def test_an_upstream_that_sends_another_blob_once(bench: Benches, upstream: FakeUpstream) -> None:
    """A size that was learned from an answer about another blob is not believed for ever, nor by the next process."""
    warm, cold = upstream.add_blob(WARM), upstream.add_blob(COLD)
    other = f"{upstream.url}/v2/{REPOSITORY}/blobs/{warm}"
    async with bench(listen=True) as b:
        upstream.fail("blob", 307, headers={"Location": other}, times=1)
        assert not await right(b, cold, COLD, Span(10, 20))
        await right_at_last(b, cold, COLD)
        await right_at_last(b, cold, COLD, Span(10, 20))
    async with bench(listen=True) as b:
        assert await right(b, cold, COLD)


async def test_a_verified_blob_keeps_its_size_whatever_an_upstream_says(
    bench: Benches, upstream: FakeUpstream, tmp_path: Path
) -> None:
    """Once the digest has told how long a blob is, another answer makes the upstream wrong and not the cache."""
    cold = upstream.add_blob(COLD)
    async with bench(listen=True) as b:
        assert await right(b, cold, COLD)
        shutil.rmtree(tmp_path / "store" / "chunks" / cold.hex[:2])
        upstream.spoil(Short(by=10))
        assert not await right(b, cold, COLD)
        await upstream.stop()
        assert not await right(b, cold, COLD)
        await upstream.come_back()
        upstream.heal()
        asked = len(upstream.asked("blob", "HEAD"))
        await right_at_last(b, cold, COLD)
        assert len(upstream.asked("blob", "HEAD")) == asked
