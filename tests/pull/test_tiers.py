"""Reads with a tier beside the store: what comes from there, and what happens when it stops giving."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_proxy.config import Account
from registry_proxy.errors import ContentCorrupt
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from registry_proxy.tiers import tree
from tests.fakes.instance import CHUNK, Bench, Benches, noise
from tests.fakes.upstream import FakeUpstream

DATA = noise(6 * CHUNK + 123)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A mount point with nothing published."""
    (tmp_path / "mount").mkdir()
    return tmp_path / "mount"


def publish(root: Path, data: bytes, digest: Digest | None = None) -> Path:
    """Publish a blob, perhaps under another's digest."""
    path = root / tree.blob_path(digest or Digest.of(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def served(bench: Bench, tier: str) -> float:
    """Bytes that an instance's readers counted for a tier."""
    labels = {"tier": tier}
    return bench.instance.metrics.registry.get_sample_value("registry_proxy_tier_seconds_count", labels) or 0


async def test_a_published_blob_costs_the_upstream_nothing(bench: Benches, upstream: FakeUpstream, root: Path) -> None:
    """Whole or in ranges, in order or not, a blob that lies in the tier is read there, and not copied into the store."""
    digest = upstream.add_blob(DATA)
    publish(root, DATA)
    async with bench(cvmfs=(root,)) as b:
        for _ in range(2):
            assert await b.read(digest) == DATA
        assert await b.read(digest, Span(5, 10), Span(3 * CHUNK, 5 * CHUNK), Span(CHUNK, CHUNK + 1)) == (
            DATA[5:10] + DATA[3 * CHUNK : 5 * CHUNK] + DATA[CHUNK : CHUNK + 1]
        )
        assert await b.read(digest, Span(CHUNK, len(DATA)), open_ended=True) == DATA[CHUNK:]
        assert b.instance.store.stats().chunks == 0
    assert upstream.sent_spans(digest) == []


async def test_chunks_of_the_store_come_first(bench: Benches, upstream: FakeUpstream, root: Path) -> None:
    """What is in the store is read there; a tier gives the rest of the same answer."""
    digest = upstream.add_blob(DATA)
    async with bench(cvmfs=(root,)) as b:
        await b.read(digest, Span(0, 2 * CHUNK))
        before = len(upstream.sent_spans(digest))
    publish(root, DATA)
    async with bench(cvmfs=(root,)) as b:
        assert await b.read(digest) == DATA
        assert await b.read(digest, Span(CHUNK + 1, CHUNK + 9)) == DATA[CHUNK + 1 : CHUNK + 9]
    assert len(upstream.sent_spans(digest)) == before


async def test_a_store_hit_asks_no_tier(
    bench: Benches, upstream: FakeUpstream, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blob that is all in the store is never looked for elsewhere."""
    digest = upstream.add_blob(DATA)
    async with bench(cvmfs=(root,)) as b:
        await b.read(digest)
        monkeypatch.setattr(tree, "open_blob", lambda *_: pytest.fail("a tier was asked"))
        assert await b.read(digest) == DATA
        assert await b.read(digest, Span(5, 10)) == DATA[5:10]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("open_ended", [True, False])
async def test_a_tier_that_fails_in_mid_answer(
    bench: Benches, upstream: FakeUpstream, root: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool, open_ended: bool
) -> None:
    """The rest comes from the upstream, and only the rest where that has ranges."""
    upstream.ranges = ranges
    digest = upstream.add_blob(DATA)
    publish(root, DATA)
    real = tree._pread

    def broken(descriptor: int, span: Span) -> bytes:
        if span.start >= 3 * CHUNK:
            raise OSError(5, "Input/output error")
        return real(descriptor, span)

    monkeypatch.setattr(tree, "_pread", broken)
    async with bench(cvmfs=(root,)) as b:
        assert await b.read(digest, Span(0, len(DATA)), open_ended=open_ended) == DATA
    if ranges:
        assert min(span.start for span in upstream.sent_spans(digest)) == 3 * CHUNK
        assert upstream.most_often(digest) == 1


async def test_several_parts_when_the_tier_fails(
    bench: Benches, upstream: FakeUpstream, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of several parts goes on as well, each part right and in its place."""
    digest = upstream.add_blob(DATA)
    publish(root, DATA)
    real, calls = tree._pread, []

    def broken(descriptor: int, span: Span) -> bytes:
        calls.append(span)
        if len(calls) > 2:
            raise OSError(5, "Input/output error")
        return real(descriptor, span)

    monkeypatch.setattr(tree, "_pread", broken)
    spans = [Span(4 * CHUNK, 4 * CHUNK + 9), Span(5, 9), Span(2 * CHUNK - 1, 2 * CHUNK + 1), Span(6, 7)]
    async with bench(cvmfs=(root,)) as b:
        assert await b.read(digest, *spans) == b"".join(DATA[span.start : span.stop] for span in spans)


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set: reads of the tree go on; cleared: they hang."""
    event, real = threading.Event(), tree._pread
    event.set()

    def slow(descriptor: int, span: Span) -> bytes:
        event.wait(30)
        return real(descriptor, span)

    monkeypatch.setattr(tree, "_pread", slow)
    yield event
    event.set()


async def test_a_mount_that_hangs_under_many_readers(
    bench: Benches, upstream: FakeUpstream, root: Path, hung: threading.Event
) -> None:
    """Each reader has the right bytes after one time limit at the most; the upstream sends each byte once."""
    digest = upstream.add_blob(DATA)
    publish(root, DATA)
    async with bench(cvmfs=(root,)) as b:
        hung.clear()
        began = asyncio.get_running_loop().time()
        assert await asyncio.gather(*(b.read(digest) for _ in range(30))) == [DATA] * 30
        assert asyncio.get_running_loop().time() - began < 5
        assert upstream.most_often(digest) == 1
        [state] = b.instance.tiers.stats()
        assert str(state["state"]).startswith("rests: ")
    assert state["hung"]


async def test_a_wrong_blob_in_the_tier_is_found_out(bench: Benches, upstream: FakeUpstream, root: Path) -> None:
    """The end of a whole answer is held back until its hash is right; the next reader gets the upstream's bytes."""
    digest = upstream.add_blob(DATA)
    publish(root, DATA[:-1] + bytes([DATA[-1] ^ 1]), digest)
    async with bench(cvmfs=(root,)) as b:
        with pytest.raises(ContentCorrupt):
            await b.read(digest)
        assert await b.read(digest) == DATA


async def test_private_blobs_are_not_looked_for(bench: Benches, upstream: FakeUpstream, root: Path) -> None:
    """What only the proxy's own account may read never comes from anything shared, even if it lies there."""
    digest = upstream.add_blob(DATA)
    publish(root, DATA)
    account = Account(username="robot", password="secret")
    async with bench(cvmfs=(root,), account=account) as b:
        assert await b.read(digest) == DATA
        assert served(b, "cvmfs:mount") == 0
    assert upstream.sent_spans(digest)


async def test_who_is_not_admitted_gets_nothing(bench: Benches, root: Path) -> None:
    """A blob that lies in the tier is still only for those whom its upstream lets read it."""
    publish(root, DATA)
    async with bench(cvmfs=(root,)) as b:
        with pytest.raises(Exception, match="sha256"):
            await b.read(Digest.of(DATA))
