"""The body writer over real sockets: exact bytes, or a connection that visibly fails."""

import asyncio
import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from registry_proxy.errors import UpstreamUnreachable
from registry_proxy.oci.digest import Digest
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.web.server import Face
from tests.fakes.wire import Wire
from tests.web.conftest import StartFace
from tests.web.memory import FileChunk, MemoryBlob, MemoryHeart, ServedManifest, memory_blob

CHUNK = 1 << 20
DATA = random.Random(3).randbytes(3 * CHUNK + 5000)


@pytest.fixture
def blob(heart: MemoryHeart) -> Iterator[MemoryBlob]:
    """A little more than 3 MiB, each chunk in a file of its own with a trailer behind it, as the store has them."""
    blob = memory_blob(DATA, hits=False)
    with ExitStack() as files:
        for index, chunk in enumerate(blob.chunks):
            file = files.enter_context(tempfile.TemporaryFile())
            file.write(chunk.data + b"trailer" * 4)
            file.flush()
            blob.chunks[index] = FileChunk(chunk.length, file)
        heart.blobs["registry.test", "a", str(blob.digest)] = blob
        yield blob


@pytest.fixture
def url(blob: MemoryBlob) -> str:
    return f"/v2/a/blobs/{blob.digest}?ns=registry.test"


@pytest.mark.parametrize(
    ("first", "stop"),
    [(0, len(DATA)), (1, CHUNK), (CHUNK - 1, CHUNK + 1), (100, 3 * CHUNK + 1), (CHUNK // 2, len(DATA))],
)
async def test_sendfile_and_writes_rejoin(wire: Wire, url: str, first: int, stop: int) -> None:
    """Large pieces by sendfile and small ones by write make exactly the bytes asked, without the file's trailer."""
    answer = await wire.ask(url, f"Range: bytes={first}-{stop - 1}")
    assert answer.body == DATA[first:stop]
    assert (await wire.ask(url, "Range: bytes=0-0")).body == DATA[:1]


async def test_parts_mix_large_and_small(wire: Wire, url: str) -> None:
    """A multipart body of large and small parts in odd order has its exact promised length."""
    answer = await wire.ask(url, f"Range: bytes={2 * CHUNK}-{3 * CHUNK + 9},7-8,0-{CHUNK - 1}")
    assert [bytes_ for _, bytes_ in answer.parts] == [DATA[2 * CHUNK : 3 * CHUNK + 10], DATA[7:9], DATA[:CHUNK]]
    assert answer.complete


@pytest.mark.parametrize("ask", ["Range: bytes=5-", "Range: bytes=0-1048575,2097152-2097200", "Accept: */*"])
async def test_trouble_in_mid_body_cuts(wire: Wire, url: str, blob: MemoryBlob, metrics: Metrics, ask: str) -> None:
    """What fails after the headers ends the connection before the promised length; no other answer follows."""
    blob.faults.at_chunk, blob.faults.error = 2, UpstreamUnreachable("the upstream hung up")
    answer = await wire.ask(url, ask)
    assert answer.status in (200, 206)
    assert not answer.complete
    assert await wire.closed()
    assert metrics.registry.get_sample_value("registry_proxy_responses_cut_total", {"by": "proxy"}) == 1


async def test_trouble_before_anything_is_sent_is_told(wire: Wire, url: str, blob: MemoryBlob) -> None:
    """Where headers and small parts still waited for more, the client gets the error itself, and may ask again."""
    blob.faults.at_chunk, blob.faults.error = 2, UpstreamUnreachable("the upstream hung up")
    answer = await wire.ask(url, "Range: bytes=0-9,2097152-2097200")
    assert (answer.status, b"hung up" in answer.body, answer.complete) == (502, True, True)
    assert (await wire.ask(url, "Range: bytes=0-9")).body == DATA[:10]


async def test_a_mistake_of_ours_in_mid_body_cuts(wire: Wire, url: str, blob: MemoryBlob) -> None:
    """An exception that nobody foresaw cuts the body too, instead of being put into it."""
    blob.faults.at_chunk, blob.faults.error = 1, ZeroDivisionError("a bug")
    answer = await wire.ask(url)
    assert not answer.complete
    assert b"internal" not in answer.body
    assert await wire.closed()


async def test_a_short_chunk_file_cuts(wire: Wire, url: str, blob: MemoryBlob) -> None:
    """sendfile on a truncated file returns less without an error; the client sees a failure and never the next answer."""
    blob.chunks[1].file.truncate(CHUNK // 2)
    wire.send(url)
    wire.send("/v2/")
    answer = await wire.answer()
    assert not answer.complete
    assert answer.body == DATA[: CHUNK + CHUNK // 2]


@pytest.mark.parametrize("chunk", [0, 1, -1])
@pytest.mark.parametrize("large", [True, False], ids=["sendfile", "write"])
async def test_a_chunk_that_is_written_to_while_it_is_sent_cuts(
    wire: Wire, url: str, blob: MemoryBlob, chunk: int, large: bool
) -> None:
    """What a chunk's file may have been while it was sent is never part of a whole answer, the last chunk's neither."""
    blob.chunks[chunk].touched = True
    if large:
        answer = await wire.ask(url)
    else:
        end = chunk % len(blob.chunks) * CHUNK + 1000
        answer = await wire.ask(url, f"Range: bytes={max(end - 2000, 0)}-{end}")
    assert answer.status != 200 or not answer.complete
    assert answer.status != 206 or not answer.complete


async def test_a_chunk_that_fails_to_read_cuts(wire: Wire, url: str, blob: MemoryBlob) -> None:
    """A read error of the disk in mid-body is a cut."""
    blob.chunks[1].broken = True
    answer = await wire.ask(url, f"Range: bytes=5-{CHUNK + 5}")
    assert (answer.status, answer.complete) == (206, False)


async def test_first_bytes_do_not_wait_for_the_next_piece(wire: Wire, url: str, blob: MemoryBlob) -> None:
    """A small piece that is there goes out although the next one is still on its way."""
    blob.faults.at_chunk, blob.faults.gate = 1, asyncio.Event()
    wire.send(url, f"Range: bytes={CHUNK - 100}-{CHUNK + 99}")
    await wire.head()
    assert await wire.reader.readexactly(100) == DATA[CHUNK - 100 : CHUNK]
    assert blob.faults.waiting.is_set()
    blob.faults.gate.set()
    assert await wire.reader.readexactly(100) == DATA[CHUNK : CHUNK + 100]


async def test_a_client_that_leaves_frees_its_reader(face: Face, url: str, blob: MemoryBlob, metrics: Metrics) -> None:
    """A reader that waits for bytes is left as soon as its client is gone."""
    blob.faults.at_chunk, blob.faults.gate = 1, asyncio.Event()
    async with Wire(face.addresses[0]) as wire:
        wire.send(url, "Range: bytes=0-")
        await wire.head()
        await blob.faults.waiting.wait()
    async with asyncio.timeout(5):
        await blob.faults.left.wait()
    await face.stop()
    assert metrics.registry.get_sample_value("registry_proxy_responses_cut_total", {"by": "client"}) == 1


@pytest.mark.parametrize("filed", [True, False])
async def test_a_client_that_takes_nothing_is_dropped(
    start: StartFace, heart: MemoryHeart, blob: MemoryBlob, metrics: Metrics, filed: bool
) -> None:
    """A client that stops reading does not hold its answer for ever, whether bytes go by sendfile or by write."""
    big = memory_blob(bytes(64 << 20), hits=False)
    if filed:
        big.chunks = [FileChunk(CHUNK, blob.chunks[0].file) for _ in big.chunks]
    heart.blobs["registry.test", "a", str(big.digest)] = big
    face = await start(idle_timeout=0.3)
    async with Wire(face.addresses[0]) as wire:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        wire.send(f"/v2/a/blobs/{big.digest}?ns=registry.test")
        async with asyncio.timeout(10):
            await big.faults.left.wait()
    await face.stop()
    assert metrics.registry.get_sample_value("registry_proxy_responses_cut_total", {"by": "client"}) == 1


async def test_a_client_that_takes_no_manifest_is_dropped(
    start: StartFace, heart: MemoryHeart, metrics: Metrics
) -> None:
    """The same holds for an answer that goes by one write."""
    body = bytes(32 << 20)
    heart.manifests["registry.test", "a", "big"] = ServedManifest(Digest.of(body), "application/json", body)
    face = await start(idle_timeout=0.3, drain=30)
    async with Wire(face.addresses[0]) as wire:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        wire.send("/v2/a/manifests/big?ns=registry.test")
        async with asyncio.timeout(10):
            await heart.called.wait()
            await face.stop()
    assert metrics.registry.get_sample_value("registry_proxy_responses_cut_total", {"by": "client"}) == 1


async def test_many_readers_share_one_file(face: Face, url: str) -> None:
    """Concurrent sendfiles of one open file do not disturb each other."""

    async def read(start: int) -> bool:
        async with Wire(face.addresses[0]) as wire:
            answer = await wire.ask(url, f"Range: bytes={start}-{start + 2 * CHUNK - 1}")
            return answer.body == DATA[start : start + 2 * CHUNK]

    assert all(await asyncio.gather(*(read(1000 * index) for index in range(12))))


async def test_bytes_and_pieces_are_counted_by_tier(wire: Wire, url: str, metrics: Metrics) -> None:
    """What came from the upstream is counted as such, in bytes and as misses."""
    await wire.ask(url, "Range: bytes=0-1048576")
    await wire.ask("/v2/")
    assert metrics.registry.get_sample_value("registry_proxy_served_bytes_total", {"tier": "upstream"}) == CHUNK + 1
    assert metrics.registry.get_sample_value("registry_proxy_misses_total") == 2


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "when the socket has room"])
@pytest.mark.parametrize(
    ("cause", "cut_by"),
    [(BrokenPipeError(), "client"), (ConnectionResetError(), "client"), (OSError(5, "I/O"), "proxy")],
)
async def test_a_sendfile_that_fails(
    wire: Wire, url: str, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, cause: OSError, cut_by: str, waits: bool
) -> None:
    """A client that has just left is one that left, also where asyncio hides why; a file that cannot be read is our own trouble."""

    def at_once(*_: object) -> int:
        raise BlockingIOError if waits else cause

    async def later(*_: object, **__: object) -> int:
        raise asyncio.SendfileNotAvailableError("os.sendfile call failed") from cause

    monkeypatch.setattr("os.sendfile", at_once)
    monkeypatch.setattr(asyncio.get_running_loop(), "sendfile", later)
    answer = await wire.ask(url)
    assert not answer.complete
    assert metrics.registry.get_sample_value("registry_proxy_responses_cut_total", {"by": cut_by}) == 1
