"""The load tests' own tools: the link relays and counts, the replay notices what is wrong, the table judges."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import farm, replay, rows, table
from loadtest.link import BURST, Bucket, Counters, HostPort, Link, Shape, Window, ask, telling
from loadtest.noise import PERIOD, Noise
from registry_proxy.app import assemble
from registry_proxy.config import Config, Server, Store, Upstream
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.chunks import Span
from tests.fakes.faults import Garbled, Short
from tests.fakes.upstream import FakeUpstream
from tests.interop.harness.process import free_port
from tests.interop.harness.proxy import SOURCE

QUICK = Shape(rate=1e9)
MIB = 1 << 20
SMALL = [  # a run as it is recorded: in the order in which the answers ended
    {"t": 0.1, "method": "HEAD", "path": "/v2/x/manifests/tag", "status": 200, "bytes": 0},
    {"t": 0.3, "method": "GET", "path": "/v2/x/blobs/sha256:bb", "range": "bytes=100-299", "bytes": 200, "content_range": "bytes 100-299/3000000"},
    {"t": 0.2, "method": "GET", "path": "/v2/x/manifests/sha256:aa", "status": 200, "bytes": 7},
    {"t": 0.25, "method": "GET", "path": "/v2/x/blobs/sha256:cc", "status": 200, "bytes": 50},
    {"t": 0.4, "method": "HEAD", "path": "/v2/x/blobs/sha256:bb", "status": 200, "bytes": 0},
    {"t": 0.5, "method": "GET", "path": "/v2/x/blobs/sha256:bb", "range": "bytes=200-399", "bytes": 200, "content_range": "bytes 200-399/3000000"},
]  # fmt: skip


# --- the link ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def linked(handler: object, shape: Shape = QUICK) -> AsyncIterator[Link]:
    """A link in front of an upstream that handles its connections so."""
    async with (
        await asyncio.start_server(handler, "127.0.0.1", 0) as server,  # type: ignore[arg-type]
        Link(server.sockets[0].getsockname(), shape).listening() as link,
    ):
        yield link


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends everything back once it has all come."""
    writer.write(await reader.read(-1))
    writer.close()
    await writer.wait_closed()


async def exchange(address: HostPort, sent: bytes) -> bytes:
    """What comes back."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(sent)
    writer.write_eof()
    back = await reader.read(-1)
    writer.close()
    await writer.wait_closed()
    return back


@pytest.mark.parametrize("shape", [QUICK, Shape(rate=1e9, rtt=0.002), Shape(rate=1e9, rtt=0.002, window=64 << 10)])
async def test_link_carries_every_byte_and_counts_it(shape: Shape) -> None:
    """Connections at once get their own bytes back in order, and the counters of each and of all agree with that."""
    sent = [Noise(size, size)[:] for size in (1, 65_537, 3 * MIB)]
    async with linked(echo, shape) as link:
        assert await asyncio.gather(*(exchange(link.address, data) for data in sent)) == sent
    counters = link.counters
    assert counters.down == counters.up == sum(map(len, sent))
    assert sorted(traffic.down for traffic in counters.last) == [len(data) for data in sent]
    assert (counters.connections, counters.open) == (3, 0)


async def test_link_takes_no_more_than_the_client_takes() -> None:
    """A client that does not read leaves the upstream with its bytes; once it reads it gets them all."""
    data, finished = Noise(64 * MIB, 1)[:], asyncio.Event()

    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        finished.set()
        writer.close()

    async with linked(send, Shape(rate=1e10, window=MIB)) as link:
        reader, writer = await asyncio.open_connection(*link.address, limit=1024)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await finished.wait()
        assert link.counters.down < len(data) / 2
        assert await reader.read(-1) == data
        writer.close()
        await writer.wait_closed()
    assert link.counters.down == len(data)


@pytest.mark.parametrize("gone", ["client", "upstream"])
async def test_link_passes_a_lost_end_on(gone: str) -> None:
    """When one end of a connection goes away so does the other."""
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await writer.drain()
        if gone == "client":
            assert await reader.read(-1) == b""
        writer.close()
        await writer.wait_closed()
        ended.set_result(None)

    async with linked(upstream) as link:
        reader, writer = await asyncio.open_connection(*link.address)
        assert await reader.readexactly(5) == b"hello"
        if gone == "upstream":
            assert await reader.read(-1) == b""
        writer.close()
        await asyncio.wait_for(ended, 10)


async def test_link_without_an_upstream_closes() -> None:
    """A connection that the upstream refuses is closed, and the link goes on."""
    async with Link(("127.0.0.1", free_port()), QUICK).listening() as link:
        for _ in range(2):
            reader, writer = await asyncio.open_connection(*link.address)
            assert await reader.read(-1) == b""
            writer.close()
    assert link.counters.connections == 2


async def test_counters_are_told_to_who_asks() -> None:
    """The control address answers every connection with the counters of that moment."""
    control, counters = ("127.0.0.1", free_port()), Counters(down=5)
    async with telling(counters, control):
        assert (await asyncio.to_thread(ask, control))["down"] == 5
        counters.down = 6
        assert (await asyncio.to_thread(ask, control))["down"] == 6


@given(st.lists(st.integers(1, 100_000), min_size=1), st.floats(0, 1e6))
def test_turns_add_up_to_the_rate(counts: list[int], now: float) -> None:
    """Bytes that queue up at one moment leave after their sum over the rate, less what an idle link has saved up."""
    bucket = Bucket(1e6)
    bucket._free = now
    waits = [bucket.reserve(count, now + 1) for count in counts]
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(max(sum(counts) / 1e6 - BURST, 0), abs=1e-6)


async def test_window_grows_by_what_is_acknowledged() -> None:
    """A sender has its first window, waits when it is used up, and may send twice as much after a round trip, up to the most."""
    window = Window(10, 35)
    assert await window.room() == 10
    window.send(10)
    waiting = asyncio.ensure_future(window.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    window.acknowledge(10)
    assert await waiting == 20
    window.send(20)
    window.acknowledge(20)
    assert await window.room() == 35


def test_window_fills_the_link() -> None:
    """Without a window of its own a connection may have more on its way than the link holds."""
    assert Shape(rate=20e6, rtt=0.02).most >= 20e6 * 0.02
    assert Shape(rate=20e6, rtt=0.02, window=1000).most == 1000


# --- noise ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2 * PERIOD), st.integers(0, 3 * PERIOD), st.integers(0, 3 * PERIOD))
def test_noise_is_one_blob(size: int, start: int, stop: int) -> None:
    """However a blob is sliced, the slices are those of one sequence of bytes, with that digest."""
    blob = Noise(size, 7)
    whole = blob[:]
    assert len(whole) == len(blob) == size
    assert blob[start:stop] == whole[start:stop]
    assert blob.digest().hex == hashlib.sha256(whole).hexdigest()


# --- the replay -------------------------------------------------------------------------------------------------------


def test_a_recorded_run_is_read_in_the_order_of_its_time() -> None:
    """Requests are sorted by their time, blobs get the sizes that the answers told, and bytes asked twice are told apart."""
    pattern = replay.parse("small", SMALL)
    assert pattern.sizes == (50, 3_000_000)
    assert [(r.method, r.blob, r.span, r.by_tag) for r in pattern.requests] == [
        ("HEAD", None, None, True),
        ("GET", None, None, False),
        ("GET", 0, None, False),
        ("GET", 1, Span(100, 300), False),
        ("HEAD", 1, None, False),
        ("GET", 1, Span(200, 400), False),
    ]
    assert (pattern.asked, pattern.distinct) == (450, 350)


def test_every_recorded_run_can_be_read() -> None:
    """Each pattern in the tree has requests, a target only names one of them, and none asks beyond a blob's end."""
    names = {path.stem for path in replay.PATTERNS.glob("*.jsonl")}
    assert names >= set(replay.TARGETS)
    for name in names:
        pattern = replay.load(name)
        assert 0 < pattern.distinct <= pattern.asked
        assert all(span.stop <= pattern.sizes[blob] for blob, span in pattern.spans())


async def test_replay_without_a_proxy_costs_what_is_asked() -> None:
    """Sent straight to an upstream, a run costs it every byte asked, and everything is right."""
    pattern = replay.parse("small", SMALL)
    async with FakeUpstream() as upstream:
        image = replay.stock(upstream, pattern)
        await replay.replay(pattern, image, upstream.url)
        assert (await replay.cost(upstream, pattern, image)).ratio == 1


@pytest.mark.parametrize("fault", [Garbled(), Short(1)])
async def test_replay_notices_wrong_and_missing_bytes(fault: Garbled | Short) -> None:
    """Bytes that are not the blob's, or not all of them, fail the replay."""
    pattern = replay.parse("small", SMALL)
    async with FakeUpstream() as upstream:
        image = replay.stock(upstream, pattern)
        upstream.spoil(fault, digest=image.digests[1])
        with pytest.raises(ExceptionGroup) as caught:
            await replay.replay(pattern, image, upstream.url)
    assert caught.group_contains(replay.ReplayFailed)


async def test_replay_notices_a_whole_answer_to_a_range() -> None:
    """200 in answer to a range fails the replay."""
    pattern = replay.parse("small", SMALL)
    async with FakeUpstream(ranges=False) as upstream:
        image = replay.stock(upstream, pattern)
        with pytest.raises(ExceptionGroup, match="unhandled errors") as caught:
            await replay.replay(pattern, image, upstream.url)
    assert caught.group_contains(replay.ReplayFailed, match="200, not 206")


@pytest.fixture
async def recorded(tmp_path: Path) -> AsyncIterator[tuple[FakeUpstream, str]]:
    """A ranged upstream, and the URL of a cold proxy in front of it, in this process."""
    async with FakeUpstream() as upstream:
        config = Config(
            store=Store(path=tmp_path / "store", limit=1 << 30),
            upstreams={SourceHost(SOURCE): Upstream(urls=(upstream.url,))},
            server=Server(listen=("127.0.0.1:0",)),
        )
        async with assemble(config) as instance:
            await instance.face.start()
            host, port = instance.face.addresses[0]
            yield upstream, f"http://{host}:{port}"
            await instance.face.stop()


@pytest.mark.parametrize("name", sorted(replay.TARGETS))
async def test_a_recorded_lazy_start_costs_little_more_than_it_asks(
    recorded: tuple[FakeUpstream, str], name: str
) -> None:
    """Every byte comes right, and the ranged upstream sends no more than the target of the pattern, as a multiple of the bytes asked."""
    upstream, url = recorded
    pattern = replay.load(name)
    image = replay.stock(upstream, pattern)
    await replay.replay(pattern, image, url)
    assert (await replay.cost(upstream, pattern, image)).ratio <= replay.TARGETS[name]


# --- the table --------------------------------------------------------------------------------------------------------


def runs(
    job: rows.Job, visit: rows.Visit, *seconds: float | None, link: int = 100, image: int = 1000
) -> list[rows.Run]:
    """Runs of a job that took so long (None: failed)."""
    return [rows.Run(job.name, visit, taken, link, link, image) for taken in seconds]


def job_named(name: str) -> rows.Job:
    """The job of that name."""
    return next(job for job in rows.JOBS if job.name == name)


def test_jobs_have_names_of_their_own() -> None:
    """No two jobs share a name, and every target compares with a job that is measured by default."""
    assert len({job.name for job in rows.JOBS}) == len(rows.JOBS)
    usual = rows.chosen([], with_slow=False)
    for job in rows.JOBS:
        for visit in job.visits:
            assert rows.limits(job, visit).direct in {None, *usual}


def test_jobs_are_chosen_by_pattern() -> None:
    """Without a pattern all but the slow jobs; a pattern finds slow ones too."""
    assert {job.name for job in rows.chosen(["full-*-direct"], with_slow=False)} == {
        "full-ranged-direct",
        "full-rangeless-direct",
    }
    assert [job.slow for job in rows.chosen(["optimised-rangeless-direct"], with_slow=False)] == [True]
    assert not any(job.slow for job in rows.chosen([], with_slow=False))
    assert rows.chosen([], with_slow=True) == list(rows.JOBS)


@pytest.mark.parametrize(
    ("name", "visit", "seconds", "link", "wanted"),
    [
        ("optimised-rangeless-proxy", "cold", 90, 1060, ("0.90 ≤ 0.90 ok", "÷ image 1.06 ≤ 1.06 ok")),
        ("optimised-rangeless-proxy", "cold", 91, 1061, ("0.91 > 0.90 MISSED", "÷ image 1.06 > 1.06 MISSED")),
        ("optimised-ranged-proxy", "cold", 42, 110, ("1.05 ≤ 1.05 ok", "÷ direct 1.10 ≤ 1.10 ok")),
        ("optimised-ranged-proxy", "second", 26, 0, ("0.65 ≤ 0.65 ok", "")),
        ("converted-ranged-proxy", "cold", 73, 176, ("0.91 > 0.90 MISSED", "÷ direct 1.76 > 1.75 MISSED")),
        ("converted-256kib-ranged-proxy", "cold", 72, 125, ("0.90 ≤ 0.90 ok", "÷ direct 1.25 ≤ 1.25 ok")),
        ("full-ranged-proxy", "cold", 103, 1000, ("1.03 ≤ 1.03 ok", "÷ image 1.00 ≤ 1.06 ok")),
        ("optimised-rangeless-proxy-8mbps", "cold", 400, 1021, ("", "÷ image 1.02 > 1.02 MISSED")),
    ],
)  # fmt: skip
def test_rows_are_judged(name: str, visit: rows.Visit, seconds: float, link: int, wanted: tuple[str, str]) -> None:
    """Each row is held to its own target, against the direct row of the same run."""
    direct = [
        *runs(rows.FULL, "direct", 100),
        *runs(rows.FULL_RANGELESS, "direct", 100),
        *runs(rows.OPTIMISED, "direct", 40),
        *runs(rows.CONVERTED, "direct", 80),
    ]
    job = job_named(name)
    found = rows.figures([*direct, *runs(job, visit, seconds, link=link)])
    assert rows.judged(found[name, visit], rows.limits(job, visit), found) == wanted
    assert rows.missed(rows.JOBS, found) == ("MISSED" in "".join(wanted))
    assert all(verdict in rows.report(rows.JOBS, found) for verdict in wanted)


def test_figures_are_medians_of_what_succeeded() -> None:
    """A failed run is counted and told, not averaged in, and misses the target."""
    found = rows.figures(runs(rows.FULL, "direct", 3, None, 1, 2))
    figure = found[rows.FULL.name, "direct"]
    assert (figure.seconds, figure.runs, figure.failed) == (2, 3, 1)
    assert "3, 1 FAILED" in rows.report(rows.JOBS, found)
    assert rows.missed(rows.JOBS, found)


def test_a_row_without_its_direct_row_is_not_judged() -> None:
    """A target whose other side was not measured shows a dash and is not missed."""
    job = job_named("optimised-ranged-proxy")
    found = rows.figures(runs(job, "cold", 5))
    assert rows.judged(found[job.name, "cold"], rows.limits(job, "cold"), found) == ("- ≤ 1.05", "÷ direct - ≤ 1.10")
    assert not rows.missed(rows.JOBS, found)


def test_markdown_is_a_table() -> None:
    """Every line has as many cells as the head, and the second one is the rule."""
    lines = table.markdown(("a", "long head"), [("a long cell", "b")]).splitlines()
    assert lines == ["| a           | long head |", "| ----------- | --------- |", "| a long cell | b         |"]


@pytest.mark.parametrize(("count", "text"), [(None, "-"), (1000, "0.00"), (9_876_543, "9.88"), (386_600_000, "387")])
def test_megabytes(count: int | None, text: str) -> None:
    """Bytes are shown in units of a million, small ones with two places."""
    assert table.megabytes(count) == text


# --- the farm ---------------------------------------------------------------------------------------------------------


async def test_nodes_of_a_farm_check_what_they_get(tmp_path: Path) -> None:
    """Every node gets every byte through the proxy, and one whose bytes are not those expected says so."""
    pattern = replay.parse("small", SMALL)
    async with FakeUpstream() as upstream:
        image = replay.stock(upstream, pattern)
        async with farm.ours(upstream, tmp_path, workers=1) as (address, _):
            wanted = farm.plans(pattern, image, address, unread=False)
            found = await farm.burst(wanted, farm.HASHED + 1, address, tmp_path)
            assert found.failures == []
            assert found.body == sum(one.body for one in wanted if one.request.startswith("GET")) * (farm.HASHED + 1)
            lie = [msgspec.structs.replace(wanted[-1], sha256="0" * 64)]
            assert "WRONG BYTES" in (await farm.burst(lie, 1, address, tmp_path)).failures[0]
