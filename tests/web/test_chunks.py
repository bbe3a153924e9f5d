"""Chunks as objects for other instances: what any cache may keep, what none may, and who is refused."""

import base64
import hashlib

import msgspec
import pytest

from registry_proxy.errors import BlobUnknown, NoRoom, NotSoon, RegistryProxyError, UpstreamBusy, UpstreamFailed
from registry_proxy.plan.chunk_objects import (
    ChunkHashes,
    ChunkName,
    parse_repr_digest,
    repr_digest,
    via_names,
)
from tests.fakes.wire import Wire
from tests.web.conftest import IDENTITY
from tests.web.memory import MemoryBlob, MemoryHeart, memory_blob

MIB = 1 << 20
DATA = bytes(range(256)) * 5000
WHERE = ("OCI-Namespace: registry.test", "OCI-Repository: team/app")


@pytest.fixture
def blob(heart: MemoryHeart) -> MemoryBlob:
    blob = memory_blob(DATA)
    heart.blobs["registry.test", "team/app", str(blob.digest)] = blob
    return blob


def path(blob: MemoryBlob, last: object = 0, size: int = MIB) -> str:
    return f"/chunks/v1/sha256/{blob.digest.hex}/{size}/{last}"


async def test_a_chunk(wire: Wire, blob: MemoryBlob) -> None:
    """A chunk is a plain answer that every cache may keep for a year, with its own hash; the last one may be short."""
    for index, wanted in enumerate((DATA[:MIB], DATA[MIB:])):
        answer = await wire.ask(path(blob, index), *WHERE)
        assert (answer.status, answer.body) == (200, wanted)
        sha256 = hashlib.sha256(wanted).digest()
        assert answer.headers["Content-Length"] == str(len(wanted))
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert answer.headers["ETag"] == f'"{sha256.hex()}"'
        assert answer.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(sha256).decode()}:"
        assert not {"Vary", "Accept-Ranges", "OCI-Namespace", "Content-Encoding", "Set-Cookie"} & set(answer.headers)
    assert [chunk.closed for chunk in blob.lent] == [1, 1]


async def test_a_range_is_not_understood(wire: Wire, blob: MemoryBlob) -> None:
    """A Range and an If-None-Match change nothing: whoever asks gets the chunk, whole."""
    tag = f'If-None-Match: "{hashlib.sha256(DATA[:MIB]).hexdigest()}"'
    answer = await wire.ask(path(blob), *WHERE, "Range: bytes=0-9", tag)
    assert (answer.status, len(answer.body)) == (200, MIB)


async def test_head(wire: Wire, blob: MemoryBlob) -> None:
    """HEAD has the headers of GET and no body; the chunk is given back."""
    answer = await wire.ask(path(blob), *WHERE, method="HEAD")
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(MIB))
    assert parse_repr_digest(answer.headers["Repr-Digest"]) == hashlib.sha256(DATA[:MIB]).digest()
    assert [chunk.closed for chunk in blob.lent] == [1]
    assert (await wire.ask(path(blob, 1), *WHERE)).body == DATA[MIB:]


@pytest.mark.parametrize(
    ("last", "size", "where"),
    [
        (2, MIB, WHERE),
        (0, MIB // 2, WHERE),
        ("x", MIB, WHERE),
        ("0/0", MIB, WHERE),
        (0, MIB, ()),
        (0, MIB, WHERE[:1]),
        (0, MIB, WHERE[1:]),
        (0, MIB, ("OCI-Namespace: elsewhere.test", WHERE[1])),
        (0, MIB, (WHERE[0], "OCI-Repository: team/other")),
    ],
)
async def test_what_is_not_there(last: object, size: int, where: tuple[str, ...], wire: Wire, blob: MemoryBlob) -> None:
    """Another grid, a chunk beyond the end, an unknown place or none at all are 404, which nobody may keep."""
    answer = await wire.ask(path(blob, last, size), *where)
    assert (answer.status, answer.headers["Cache-Control"]) == (404, "no-store")


@pytest.mark.parametrize("where", [(WHERE[0], "OCI-Repository: ../x"), ("OCI-Namespace: a b", WHERE[1])])
async def test_malformed_places(where: tuple[str, ...], wire: Wire, blob: MemoryBlob, heart: MemoryHeart) -> None:
    """Names that can be none are refused before anybody is asked."""
    answer = await wire.ask(path(blob), *where)
    assert (answer.status, answer.headers["Cache-Control"]) == (400, "no-store")
    assert not heart.calls


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (NotSoon("on its way", 1.2), 429, "2"),
        (UpstreamBusy("rate limit", 7), 429, "7"),
        (BlobUnknown("private"), 404, None),
        (UpstreamFailed("500"), 502, None),
        (NoRoom("full"), 503, None),
    ],
)
async def test_failures_are_never_kept(
    error: RegistryProxyError, status: int, retry: str | None, wire: Wire, blob: MemoryBlob, heart: MemoryHeart
) -> None:
    """A chunk that will come is 429 with Retry-After (it burns no forward proxy); no failure may be kept."""
    heart.error = error
    answer = await wire.ask(path(blob), *WHERE)
    assert (answer.status, answer.headers.get("Retry-After")) == (status, retry)
    assert answer.headers["Cache-Control"] == "no-store"


async def test_loops(wire: Wire, blob: MemoryBlob, heart: MemoryHeart) -> None:
    """A request that has passed this instance is 508; the other instances that one has passed are known further in."""
    looped = await wire.ask(path(blob), *WHERE, f"Via: 1.1 registry-proxy-a, 1.1 squid.test (squid), 1.1 {IDENTITY}")
    assert (looped.status, looped.headers["Cache-Control"]) == (508, "no-store")
    assert not heart.calls
    await wire.ask(path(blob), *WHERE, "Via: 1.1 registry-proxy-a, 1.1 squid.test (squid)")
    await wire.ask(path(blob), *WHERE)
    assert [call[-1] for call in heart.calls] == [("registry-proxy-a",), ()]


async def test_hashes(wire: Wire, blob: MemoryBlob, heart: MemoryHeart) -> None:
    """The hashes of a verified blob can be had and kept; of another one there are none to be kept."""
    missing = await wire.ask(path(blob, "hashes"), *WHERE)
    assert (missing.status, missing.headers["Cache-Control"]) == (404, "no-store")
    heart.lists[str(blob.digest)] = ChunkHashes(len(DATA), MIB, bytes(64))
    answer = await wire.ask(path(blob, "hashes"), *WHERE)
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")
    assert msgspec.json.decode(answer.body, type=ChunkHashes).fits(len(DATA), MIB)


async def test_nothing_is_written(wire: Wire, blob: MemoryBlob) -> None:
    """Anything but GET and HEAD is refused."""
    assert (await wire.ask(path(blob), *WHERE, "Content-Length: 0", method="PUT")).status == 405


class TestWords:
    def test_names(self, blob: MemoryBlob) -> None:
        """A name is parsed from the path that it makes."""
        for name in (ChunkName(blob.digest, MIB, 7), ChunkName(blob.digest, MIB, None)):
            assert ChunkName.parse(name.path) == name

    @pytest.mark.parametrize("text", ["", "sha-512=:AA==:", "sha-256=:!:", "sha-256=AA==", "sha-256=:A:"])
    def test_no_digest(self, text: str) -> None:
        """A Repr-Digest without a sha-256 that can be read is none."""
        assert parse_repr_digest(text) is None

    def test_digests(self) -> None:
        """A Repr-Digest is read back, also from among others."""
        assert parse_repr_digest(f"sha-512=:AA==:, {repr_digest(bytes(32))}") == bytes(32)

    def test_via(self) -> None:
        """Every hop has a name, whatever stands beside it."""
        assert via_names("1.1 a, 1.0 b (squid/5.7), , HTTP/1.1 c") == ["a", "b", "c"]

    def test_fits(self) -> None:
        """A list of hashes is one for exactly that many chunks."""
        assert ChunkHashes(10, 4, bytes(96)).fits(10, 4)
        assert not ChunkHashes(10, 4, bytes(64)).fits(10, 4)
        assert not ChunkHashes(10, 4, bytes(96)).fits(11, 4)
        assert ChunkHashes(5, 4, bytes(32) + b"x" * 32).of(1) == b"x" * 32
