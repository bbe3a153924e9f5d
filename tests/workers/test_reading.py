"""A server's side of blobs and manifests before a fetcher's desk, over a real socket, in one process: what crosses, and that it is right."""

import asyncio
import contextlib
import hashlib
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry_proxy.config import Lazy, Policy, Store
from registry_proxy.errors import BlobUnknown, ContentCorrupt, ManifestUnknown, RegistryProxyError
from registry_proxy.lazy.estargz.footer import TOC_DIGEST
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, Tag
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.ranges import Part
from registry_proxy.tiers.base import MemoryChunk
from registry_proxy.tiers.openfiles import StoredChunk
from registry_proxy.tiers.view import StoreView
from registry_proxy.workers.blobs import RemoteBlobs
from registry_proxy.workers.calls import Done, Doubt
from registry_proxy.workers.desk import Desk
from registry_proxy.workers.line import Line
from registry_proxy.workers.lookups import RemoteChunks, RemoteDiscovery, RemoteManifests
from tests.fakes.faults import Flipped, Garbled, Gate
from tests.fakes.instance import CHUNK, HOST, Bench, Benches, noise
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.lazy.layers import estargz, sha256

DATA = noise(6 * CHUNK + 5)
WRONG = "registry_proxy_frames_compared_total"


@dataclass
class Pair:
    """A fetcher and a server. ``memory``: bytes that came over the socket and not from the store."""

    bench: Bench
    listening: socket.socket
    desk: Desk
    line: Line
    view: StoreView
    blobs: RemoteBlobs
    memory: int = 0

    async def read(self, digest: Digest, *spans: Span, open_ended: bool = False) -> bytes:
        """The bytes of these spans (none: of the whole blob) as the server has them, put together."""
        blob = await self.blobs.open(self.bench.place(digest))
        parts = [Part(span, open_ended) for span in spans or (Span(0, blob.size),)]
        out = bytearray()
        async with blob.read(parts) as reader:
            for index in range(len(parts)):
                async with aclosing(reader.pieces(index)) as pieces:
                    async for piece in pieces:
                        out += piece.read()
                        self.memory += len(piece) if isinstance(piece.chunk, MemoryChunk) else 0
        return bytes(out)

    async def hit(self, digest: Digest, span: Span) -> bytes | None:
        """The span, if it takes no waiting."""
        piece = (await self.blobs.open(self.bench.place(digest))).hit(span)
        if piece is None:
            return None
        with contextlib.closing(piece.chunk):
            return piece.read()

    async def renew(self) -> None:
        """Another fetcher in the place of the first: its connections are cut, and it knows nothing of them."""
        await self.desk.stop(0)
        self.desk = Desk(self.bench.instance)
        await self.desk.start(self.listening.dup())


@pytest.fixture
async def pair(bench: Benches, tmp_path: Path) -> AsyncIterator[Pair]:
    async with bench(policy=Policy(patience=2)) as fetcher, paired(fetcher, tmp_path) as found:  # type: ignore[arg-type]
        yield found


@asynccontextmanager
async def paired(bench: Bench, directory: Path) -> AsyncIterator[Pair]:
    path = str(directory / "line")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        desk, line = Desk(bench.instance), Line(path, 2)

        async def doubt(digest: Digest, index: int) -> None:
            await line.ask(Doubt(digest, index), Done)

        view = StoreView(Store(path=directory / "store", chunk_size=CHUNK), doubt)  # type: ignore[arg-type]
        pair = Pair(bench, listening, desk, line, view, RemoteBlobs(line, view))
        await desk.start(listening.dup())
        try:
            yield pair
        finally:
            await view.close()
            await line.close()
            await pair.desk.stop(1)


async def test_a_cold_blob_crosses_as_a_question(pair: Pair, upstream: FakeUpstream) -> None:
    """The whole of a cold blob is right, comes once, and no byte of it over the socket."""
    digest = upstream.add_blob(DATA)
    assert await pair.read(digest) == DATA
    assert (pair.memory, upstream.most_often(digest)) == (0, 1)


async def test_what_is_there_needs_no_fetcher(pair: Pair, upstream: FakeUpstream) -> None:
    """Once a server has read a blob, it reads it again, whole and in part, while there is no fetcher."""
    digest = upstream.add_blob(DATA)
    await pair.read(digest)
    await pair.desk.stop(0)
    assert await pair.read(digest) == DATA
    assert await pair.read(digest, Span(7, CHUNK + 9), Span(3, 4)) == DATA[7 : CHUNK + 9] + DATA[3:4]
    assert await pair.hit(digest, Span(5, 99)) == DATA[5:99]
    await pair.desk.start(pair.listening.dup())


@pytest.mark.parametrize("seed", range(4))
async def test_any_mixture_of_reads_is_right(pair: Pair, upstream: FakeUpstream, seed: int) -> None:
    """Random spans, several at a time, open ends, chunks dropped and fetchers replaced in between: the upstream's bytes each time."""
    digest = upstream.add_blob(DATA)
    chance = random.Random(seed)

    async def one() -> None:
        spans = [Span(*sorted(chance.sample(range(len(DATA)), 2))) for _ in range(chance.choice((1, 1, 3)))]
        open_ended = chance.random() < 0.3 and len(spans) == 1
        if open_ended:
            spans = [Span(spans[0].start, len(DATA))]
        whole = chance.random() < 0.2
        expected = DATA if whole else b"".join(DATA[span.start : span.stop] for span in spans)
        assert await pair.read(digest, *(() if whole else spans), open_ended=open_ended) == expected

    for _ in range(6):
        await asyncio.gather(*(one() for _ in range(6)))
        match chance.randrange(3):
            case 0:
                await pair.bench.instance.store.drop_chunk(digest, chance.randrange(7))
            case 1:
                await pair.bench.instance.store.drop(digest)
            case 2:
                await asyncio.gather(one(), one(), pair.renew())


async def test_without_a_store_the_bytes_cross(bench: Benches, upstream: FakeUpstream, tmp_path: Path) -> None:
    """A blob that the store has no room for comes over the socket, and is right."""
    data = noise(40 * CHUNK, 5)
    digest = upstream.add_blob(data)
    async with bench(limit=16 * CHUNK) as fetcher, paired(fetcher, tmp_path) as pair:
        assert await pair.read(digest) == data
    assert pair.memory > 0


async def test_a_chunk_that_cannot_be_opened_here_is_sent(pair: Pair, upstream: FakeUpstream, tmp_path: Path) -> None:
    """A server that cannot open what the fetcher names gets the bytes."""
    digest = upstream.add_blob(DATA)
    blind = StoreView(Store(path=tmp_path / "nowhere", chunk_size=CHUNK), pair.view._doubt)  # type: ignore[arg-type]
    pair.blobs = RemoteBlobs(pair.line, blind)
    assert await pair.read(digest) == DATA
    assert pair.memory == len(DATA)
    await blind.close()


async def test_a_chunk_that_decays_is_fetched_again(pair: Pair, upstream: FakeUpstream) -> None:
    """A server that finds a stored chunk wrong, which the fetcher believes in, has it looked at and gets the right bytes."""
    digest = upstream.add_blob(DATA)
    assert await pair.bench.read(digest) == DATA
    path = Path(pair.bench.instance.store._layout.chunk(digest, 2))
    decay(path)
    kept = pair.bench.instance.store._files._kept[digest, 2]
    kept.identity = identity_of(path)  # as if nothing had happened: what decays changes no time
    pair.bench.instance.store._files.trust(kept)
    assert await pair.read(digest) == DATA
    assert upstream.most_often(digest) == 2


async def test_wrong_bytes_never_end_a_whole_answer(pair: Pair, upstream: FakeUpstream) -> None:
    """A chunk that came wrong, was served in a range and sent from the store, keeps the end of a whole answer back (I4)."""
    digest = upstream.add_blob(DATA)
    upstream.spoil(Garbled(), digest=digest, times=1)
    wrong = await pair.read(digest, Span(0, 100))
    assert wrong != DATA[:100]
    sent = bytearray()
    with pytest.raises(ContentCorrupt):
        sent += await pair.read(digest)
    assert len(sent) < len(DATA)
    assert await pair.read(digest) == DATA


async def test_what_is_to_be_compared_first_is_the_fetchers_to_give(
    bench: Benches, upstream: FakeUpstream, tmp_path: Path
) -> None:
    """With ``verify_chunks = "before"`` a server serves nothing of a partial layer with a TOC that the fetcher has not compared."""
    data, toc = estargz({str(number): noise(40_000, number) for number in range(20)}, chunk=5000)
    digest = upstream.add_blob(data)
    layer = {"digest": str(digest), "size": len(data), "annotations": {TOC_DIGEST: sha256(toc)}}
    manifest = upstream.add_manifest(json.dumps({"schemaVersion": 2, "layers": [layer]}).encode())
    span = Span(4 * CHUNK, 5 * CHUNK)
    async with bench(lazy=Lazy(verify_chunks="before")) as fetcher, paired(fetcher, tmp_path) as pair:
        await fetcher.instance.manifests.get(HOST, Repository(REPOSITORY), manifest)
        await pair.read(digest, Span(len(data) - 100, len(data)))
        upstream.spoil(Flipped(span.start + CHUNK // 2), times=1)
        assert await pair.read(digest, span) == data[span.start : span.stop]
        assert fetcher.instance.metrics.registry.get_sample_value(WRONG, {"right": "false"}) == 1
        assert await pair.hit(digest, span) is None
        assert await pair.read(digest) == data
        assert await pair.hit(digest, span) == data[span.start : span.stop]


async def test_a_fetcher_that_is_replaced_loses_no_answer(pair: Pair, upstream: FakeUpstream) -> None:
    """A whole answer that is under way when the fetcher changes ends right, and its beginning is still vouched for."""
    digest = upstream.add_blob(DATA)
    upstream.gate = Gate()
    blob = await pair.blobs.open(pair.bench.place(digest))
    out = bytearray()
    upstream.gate.release(2 * CHUNK)
    async with blob.read([Part(Span(0, blob.size))]) as reader, aclosing(reader.pieces(0)) as pieces:
        async for piece in pieces:
            out += piece.read()
            if len(out) == 2 * CHUNK:
                await pair.renew()
                upstream.gate.release(3 * len(DATA))  # what the first fetcher had asked for may take a part of it
    assert hashlib.sha256(out).hexdigest() == digest.hex


async def test_who_leaves_is_fetched_for_no_longer(pair: Pair, upstream: FakeUpstream) -> None:
    """A client that leaves a server leaves the flight, too: the upstream is not read to the end."""
    data = noise(400 * CHUNK, 9)  # more than a run and what lies in the buffers of sockets
    digest = upstream.add_blob(data)
    upstream.gate = Gate()
    reading = asyncio.create_task(pair.read(digest))
    upstream.gate.release(CHUNK)
    await upstream.until_sent(digest, CHUNK)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    heart = pair.bench.instance.blobs._heart
    async with asyncio.timeout(10):
        while pair.desk._serving:  # noqa: ASYNC110
            await asyncio.sleep(0)
        upstream.gate.release(len(data))
        while heart.flying:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert upstream.sent(digest) < len(data)


async def test_errors_cross_as_what_they_are(pair: Pair, upstream: FakeUpstream) -> None:
    """The class, the text and what else an error says are the fetcher's."""
    upstream.add_image(tag="v1")
    missing = Digest.of(b"missing")
    with pytest.raises(BlobUnknown):
        await pair.read(missing)
    with pytest.raises(ManifestUnknown):
        await RemoteManifests(pair.line).get(HOST, Repository(REPOSITORY), Tag("nothing"))
    upstream.fail("blob", 429, headers={"Retry-After": "7"})
    digest = upstream.add_blob(DATA)
    said = []
    for blobs in (pair.bench.instance.blobs, pair.blobs):
        with pytest.raises(RegistryProxyError) as caught:
            await blobs.open(pair.bench.place(digest))
        said.append((type(caught.value), str(caught.value), vars(caught.value)))
    assert said[0] == said[1]


async def test_hot_manifests_do_not_cross(pair: Pair, upstream: FakeUpstream) -> None:
    """A manifest by digest is asked for once, a tag once in a while, and no-cache always; another fetcher is asked again."""
    digest = upstream.add_image(tag="v1")
    manifests = RemoteManifests(pair.line)
    repository = Repository(REPOSITORY)
    for reference in (digest, Tag("v1")):
        first = await manifests.get(HOST, repository, reference)
        assert (first.body, first.digest) == (upstream.content[digest], digest)
    await pair.desk.stop(0)
    assert (await manifests.get(HOST, repository, digest)).body == upstream.content[digest]
    await pair.desk.start(pair.listening.dup())
    asked = len(upstream.asked("manifest"))
    await manifests.get(HOST, repository, Tag("v1"), no_cache=True)
    assert len(upstream.asked("manifest")) == asked + 1


async def test_lists_and_chunk_objects_cross(pair: Pair, upstream: FakeUpstream) -> None:
    """Tags, referrers and chunks for other instances are what the fetcher has; a chunk is opened here."""
    digest = upstream.add_blob(DATA)
    subject = upstream.add_image(tag="v1")
    signature = upstream.add_image(tag=None, subject=subject, layers=[b"signature"])
    lists, repository = RemoteDiscovery(pair.line), Repository(REPOSITORY)
    assert (await lists.tags(HOST, repository, None, None)).names == ("v1",)
    assert [one["digest"] for one in await lists.referrers(HOST, repository, subject)] == [str(signature)]
    chunks = RemoteChunks(pair.line, pair.view)
    assert await pair.read(digest) == DATA
    found = await chunks.chunk(pair.bench.place(digest), 6)
    with contextlib.closing(found.piece.chunk):
        assert found.piece.read() == DATA[6 * CHUNK :]
        assert found.sha256 == hashlib.sha256(DATA[6 * CHUNK :]).digest()
        assert isinstance(found.piece.chunk, StoredChunk)
    assert (await chunks.hashes(pair.bench.place(digest))).of(6) == found.sha256
    assert pair.bench.place(digest) in await chunks.places(digest)


async def test_what_servers_read_is_not_evicted_first(pair: Pair, upstream: FakeUpstream) -> None:
    """The groups that a server has read are told once, and are the last used for the fetcher then."""
    first, second = upstream.add_blob(noise(CHUNK, 1)), upstream.add_blob(noise(CHUNK, 2))
    for digest in (first, second):
        await pair.bench.read(digest)
    pair.view.marks()
    await pair.read(first)
    used = pair.view.marks()
    assert [key.digest for key in used] == [first]
    assert pair.view.marks() == []
    store = pair.bench.instance.store
    assert [group.key.digest for group in store._accounts] == [first, second]
    store.used(used)
    assert [group.key.digest for group in store._accounts] == [second, first]


def decay(path: Path) -> None:
    """One bit of a chunk's file changes."""
    with path.open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))


def identity_of(path: Path) -> int:
    found = path.stat()
    return hash((found.st_ino, found.st_size, found.st_ctime_ns)) or 1


async def test_a_wrong_size_is_not_believed_for_ever(pair: Pair, upstream: FakeUpstream) -> None:
    """A size learned from an answer about another blob goes with the first read that shows it; the fetcher lives on."""
    right, other = upstream.add_blob(DATA), upstream.add_blob(noise(CHUNK, seed=8))
    upstream.fail("blob", 307, headers={"Location": f"{upstream.url}/v2/{REPOSITORY}/blobs/{other}"}, times=1)
    assert (await pair.blobs.open(pair.bench.place(right), certain=True)).size == CHUNK
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(RegistryProxyError):
                if await pair.read(right) == DATA:
                    break
    assert pair.blobs.opened(pair.bench.place(right)).size == len(DATA)  # type: ignore[union-attr]
