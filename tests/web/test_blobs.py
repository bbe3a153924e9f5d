"""Blobs over real sockets: whole, in part, in parts, and what their headers say."""

import random

import pytest

from registry_proxy.errors import Denied, NoRoom, NotSoon, UpstreamBusy, UpstreamUnreachable
from tests.fakes.wire import Wire
from tests.web.memory import MemoryBlob, MemoryChunk, MemoryHeart, memory_blob

DATA = random.Random(1).randbytes(10_000)


@pytest.fixture
def blob(heart: MemoryHeart) -> MemoryBlob:
    """10,000 bytes in chunks of 1,024."""
    blob = memory_blob(DATA, chunk=1024)
    heart.blobs["registry.test", "library/app", str(blob.digest)] = blob
    return blob


@pytest.fixture
def url(blob: MemoryBlob) -> str:
    return f"/v2/library/app/blobs/{blob.digest}?ns=registry.test"


async def test_a_whole_blob_comes_with_every_header(wire: Wire, url: str, blob: MemoryBlob) -> None:
    """GET answers 200 with the bytes, their digest, a strong ETag and the length, and never compressed."""
    answer = await wire.ask(url, "Accept-Encoding: zstd, gzip, deflate")
    assert (answer.status, answer.body) == (200, DATA)
    assert answer.headers["Content-Length"] == "10000"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Docker-Content-Digest"] == str(blob.digest)
    assert answer.headers["ETag"] == f'"{blob.digest}"'
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert answer.headers["OCI-Namespace"] == "registry.test"
    assert "immutable" in answer.headers["Cache-Control"]
    assert "public" not in answer.headers["Cache-Control"]
    assert "Content-Encoding" not in answer.headers
    assert "Transfer-Encoding" not in answer.headers


async def test_head_ignores_the_range_and_is_certain(wire: Wire, url: str, heart: MemoryHeart) -> None:
    """HEAD answers 200 with the whole length whatever Range says, asks the heart to be certain, and sends no body."""
    answer = await wire.ask(url, "Range: bytes=0-1", method="HEAD")
    assert answer.status == 200
    assert answer.headers["Content-Length"] == "10000"
    assert "Content-Range" not in answer.headers
    assert heart.calls[-1][-1] is True
    assert (await wire.ask(url)).body == DATA


@pytest.mark.parametrize("hits", [True, False])
async def test_a_range_within_one_chunk(wire: Wire, url: str, blob: MemoryBlob, hits: bool) -> None:
    """A small range is the same from a chunk at hand and from the reader, and its chunk is given back."""
    blob.hits = hits
    answer = await wire.ask(url, "Range: bytes=1030-1039")
    assert (answer.status, answer.body) == (206, DATA[1030:1040])
    assert answer.headers["Content-Range"] == "bytes 1030-1039/10000"
    assert answer.headers["Content-Length"] == "10"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert [chunk.closed for chunk in blob.lent] == [1] * hits
    assert len(blob.asked) == (not hits)


async def test_an_open_end_is_told_to_the_heart(wire: Wire, url: str, blob: MemoryBlob) -> None:
    """``bytes=N-`` promises everything to the end, and the reader learns that the client may leave long before."""
    answer = await wire.ask(url, "Range: bytes=500-")
    assert (answer.status, answer.body) == (206, DATA[500:])
    assert answer.headers["Content-Range"] == "bytes 500-9999/10000"
    assert blob.asked[0][0].open_ended


async def test_parts_come_one_per_range_in_the_order_asked(wire: Wire, url: str) -> None:
    """Overlapping, adjacent and descending ranges are neither merged nor sorted, and the length was exact."""
    answer = await wire.ask(url, "Range: bytes=9000-9009, 0-4, 5-9, 3-7, -2")
    assert (answer.status, answer.complete) == (206, True)
    assert answer.headers["Content-Type"].startswith("multipart/byteranges; boundary=")
    assert "Content-Range" not in answer.headers
    assert answer.parts == [
        ("bytes 9000-9009/10000", DATA[9000:9010]),
        ("bytes 0-4/10000", DATA[0:5]),
        ("bytes 5-9/10000", DATA[5:10]),
        ("bytes 3-7/10000", DATA[3:8]),
        ("bytes 9998-9999/10000", DATA[9998:]),
    ]
    assert (await wire.ask(url)).body == DATA


async def test_1024_ranges_in_a_header_of_20_kilobytes(wire: Wire, heart: MemoryHeart) -> None:
    """podman's largest request is answered in full, and one range more is a 400, which makes podman ask for fewer."""
    data = random.Random(2).randbytes(1 << 20)
    blob = memory_blob(data, chunk=1 << 16)
    heart.blobs["registry.test", "library/app", str(blob.digest)] = blob
    url = f"/v2/library/app/blobs/{blob.digest}?ns=registry.test"
    starts = [900_000 + 90 * index for index in range(1024)]
    ranges = [f"{start}-{start + 10:09d}" for start in starts]
    header = "Range: bytes=" + ",  ".join(ranges)
    assert len(header) > 19_000
    answer = await wire.ask(url, header)
    assert [bytes_ for _, bytes_ in answer.parts] == [data[start : start + 11] for start in starts]
    answer = await wire.ask(url, header + ",0-0")
    assert (answer.status, answer.codes) == (400, ["UNSUPPORTED"])


@pytest.mark.parametrize("header", ["bytes=10000-", "bytes=500-0", "bytes=-0", "bytes=20000-30000,10000-10001"])
async def test_416_says_how_long_the_content_is(wire: Wire, url: str, header: str) -> None:
    """Nothing satisfiable, or a range that ends before it starts: 416 with the size (the conformance suite wants it)."""
    answer = await wire.ask(url, f"Range: {header}")
    assert answer.status == 416
    assert answer.headers["Content-Range"] == "bytes */10000"


async def test_more_than_everything_is_refused(wire: Wire, url: str) -> None:
    """Ranges that sum to more than the blob get 400."""
    assert (await wire.ask(url, "Range: bytes=0-,0-0")).status == 400


@pytest.mark.parametrize("header", ["items=0-1", "bytes=abc", "bytes 0-1", "bytes=1", "bytes=,", "bytes=1--2"])
async def test_what_is_no_byte_range_is_ignored(wire: Wire, url: str, header: str) -> None:
    """Foreign units and malformed headers get the whole blob (RFC 9110 §14.2)."""
    answer = await wire.ask(url, f"Range: {header}")
    assert (answer.status, answer.body) == (200, DATA)


async def test_if_range(wire: Wire, url: str, blob: MemoryBlob) -> None:
    """Only the very ETag keeps the range; another one, a weak one or a date gets everything (RFC 9110 §13.1.5)."""
    tag = f'"{blob.digest}"'
    assert (await wire.ask(url, "Range: bytes=0-1", f"If-Range: {tag}")).status == 206
    for other in ('"other"', f"W/{tag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert (await wire.ask(url, "Range: bytes=0-1", f"If-Range: {other}")).body == DATA


async def test_if_none_match(wire: Wire, url: str, blob: MemoryBlob) -> None:
    """A client that has the blob gets 304 without a body, and the connection goes on."""
    answer = await wire.ask(url, "Range: bytes=0-1", f'If-None-Match: "x", W/"{blob.digest}"')
    assert answer.status == 304
    assert answer.headers["ETag"] == f'"{blob.digest}"'
    assert (await wire.ask(url)).status == 200


async def test_an_empty_blob(wire: Wire, heart: MemoryHeart) -> None:
    """A blob without bytes is 200 with none, and no range of it is satisfiable."""
    blob = memory_blob(b"")
    heart.blobs["registry.test", "a", str(blob.digest)] = blob
    url = f"/v2/a/blobs/{blob.digest}?ns=registry.test"
    answer = await wire.ask(url)
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "0", b"")
    assert (await wire.ask(url, "Range: bytes=0-")).headers["Content-Range"] == "bytes */0"
    assert (await wire.ask(url, method="HEAD")).headers["Content-Length"] == "0"


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (UpstreamUnreachable("no answer"), 502, "UNKNOWN", None),
        (UpstreamBusy("rate limit", retry_after=7.2), 429, "TOOMANYREQUESTS", "8"),
        (NotSoon("too far", retry_after=0.1), 503, "TOOMANYREQUESTS", "1"),
        (NoRoom("store full"), 503, "UNKNOWN", None),
        (Denied("no"), 403, "DENIED", None),
    ],
)
async def test_early_trouble_is_a_status(
    wire: Wire, url: str, blob: MemoryBlob, error: Exception, status: int, code: str, retry_after: str | None
) -> None:
    """What fails before the headers is an OCI error, with Retry-After where waiting helps; the connection goes on."""
    blob.faults.early = error  # type: ignore[assignment]
    answer = await wire.ask(url)
    assert (answer.status, answer.codes) == (status, [code])
    assert answer.headers.get("Retry-After") == retry_after
    blob.faults.early = None
    assert (await wire.ask(url)).body == DATA


async def test_a_request_that_names_no_upstream_uses_the_digest(
    wire: Wire, heart: MemoryHeart, blob: MemoryBlob
) -> None:
    """stargz 0.18 sends no ``ns``: the blob comes from where its digest is a fact, and nothing else is asked."""
    heart.facts[str(blob.digest)] = blob
    answer = await wire.ask(f"/v2/library/app/blobs/{blob.digest}")
    assert answer.body == DATA
    assert [call[0] for call in heart.calls] == ["open_anywhere"]
    assert "OCI-Namespace" not in answer.headers


async def test_an_unknown_digest_without_upstream_is_docker_hubs(wire: Wire, heart: MemoryHeart) -> None:
    """dockerd names no host: what no place is known for is asked of Docker Hub."""
    blob = memory_blob(DATA)
    heart.blobs["docker.io", "library/alpine", str(blob.digest)] = blob
    assert (await wire.ask(f"/v2/library/alpine/blobs/{blob.digest}")).body == DATA
    assert [call[0] for call in heart.calls] == ["open_anywhere", "open"]


async def test_a_chunk_that_cannot_be_read_is_a_miss(wire: Wire, url: str, blob: MemoryBlob) -> None:
    """A hit whose file fails is answered by the reader instead; the client never knows."""
    good = blob.chunks[0]

    class Broken(MemoryChunk):
        def read(self, start: int, stop: int) -> bytes:
            raise OSError(5, f"Input/output error at [{start}, {stop})")

        def close(self) -> None:
            super().close()
            blob.chunks[0] = good

    blob.chunks[0] = Broken(DATA[:1024])
    answer = await wire.ask(url, "Range: bytes=0-9")
    assert (answer.status, answer.body) == (206, DATA[:10])
    assert blob.lent[0].closed == 1
