"""Chunks from parents: what is asked of them, what is believed, what is waited for, and when the next source has its turn."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from registry_proxy.config import Account, Forwarding, Policy
from registry_proxy.config.units import Seconds
from registry_proxy.errors import BlobUnknown, ContentCorrupt, NotSoon, Trouble, UpstreamBroken
from registry_proxy.net.forward import ForwardProxies
from registry_proxy.net.hops import HOPS
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.plan.chunk_objects import ChunkHashes, ChunkName, repr_digest
from registry_proxy.plan.chunks import Grid, Span
from registry_proxy.plan.forward_proxies import score
from registry_proxy.sources.base import BlobPlace, Priority, Urgency
from registry_proxy.sources.chunk_lists import ChunkLists
from registry_proxy.sources.parent import ParentSource
from registry_proxy.telemetry.metrics import Metrics
from tests.fakes.faults import Gate
from tests.fakes.instance import CHUNK, benches, noise
from tests.fakes.station import Answering, Station, breaks_off, dead_url, in_turn, says
from tests.fakes.upstream import REPOSITORY, FakeUpstream

DATA = noise(10 * CHUNK + 77, seed=4)
GRID = Grid(len(DATA), CHUNK)
PLACE = BlobPlace(SourceHost("registry.example"), Repository("team/app"), Digest.of(DATA))
EVERYTHING = Span(0, len(DATA))


def chunk_of(index: int) -> bytes:
    span = GRID.span_of(index)
    return DATA[span.start : span.stop]


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


HASHES = ChunkHashes(len(DATA), CHUNK, b"".join(sha256(chunk_of(index)) for index in range(GRID.count)))


def chunk(index: int, data: bytes | None = None, digest: str | None = None) -> web.Response:
    data = chunk_of(index) if data is None else data
    return web.Response(body=data, headers={"Repr-Digest": repr_digest(sha256(data)) if digest is None else digest})


def parent_of(
    answer: Callable[[int, web.BaseRequest], Awaitable[web.StreamResponse]] | None = None,
    verified: ChunkHashes | None = None,
) -> Answering:
    """A parent that has the blob, or answers for each chunk as told."""

    async def answering(request: web.BaseRequest) -> web.StreamResponse:
        name = ChunkName.parse(request.path)
        assert (name.digest, name.chunk_size) == (PLACE.digest, CHUNK)
        if name.index is None:
            return web.Response(status=200 if verified else 404, body=msgspec.json.encode(verified))
        return await answer(name.index, request) if answer else chunk(name.index)

    return answering


def indexes(station: Station) -> list[int | None]:
    """Which chunks were asked for (None: the list of hashes)."""
    return [ChunkName.parse(request.path).index for request in station.seen]


def chunks_asked(station: Station) -> list[int]:
    return [index for index in indexes(station) if index is not None]


@asynccontextmanager
async def source(
    *urls: str, patience: float = 5.0, groups: str = "DIRECT", public: bool = True
) -> AsyncIterator[ParentSource]:
    settings = Forwarding(groups=groups, timeout=Seconds(1), timeout_direct=Seconds(1))
    async with ForwardProxies(settings) as ways, ForwardProxies(Forwarding()) as straight:
        yield ParentSource(
            urls,
            ways,
            ChunkLists(urls, straight, "registry-proxy-me"),
            chunk_size=CHUNK,
            patience=patience,
            connections=8,
            identity="registry-proxy-me",
            may_share=lambda _: public,
            metrics=Metrics(),
        )


async def read(parents: ParentSource, span: Span | None = EVERYTHING, into: bytearray | None = None) -> bytes:
    got = bytearray() if into is None else into
    async with parents.open(PLACE, span, len(DATA), Urgency(Priority.FOREGROUND)) as delivery:
        assert (delivery.span, delivery.total, delivery.ranged, delivery.proves) == (span, len(DATA), True, False)
        async for data in delivery:
            got += data
    return bytes(got)


class TestRuns:
    async def test_a_run_is_its_chunks_in_order(self) -> None:
        """The bytes of a run come in order, each chunk asked for once, by plain requests that say where the blob lives."""
        async with Station(parent_of()) as parent, source(parent.url) as parents:
            assert await read(parents) == DATA
            assert await read(parents, Span(9 * CHUNK, len(DATA))) == DATA[9 * CHUNK :]
            assert sorted(chunks_asked(parent)) == sorted([*range(11), 9, 10])
            headers = parent.seen[0].headers
            assert (headers["OCI-Namespace"], headers["OCI-Repository"]) == ("registry.example", "team/app")
            assert headers["Via"] == "1.1 registry-proxy-me"
            assert not {"Range", "Authorization", "Cache-Control"} & set(headers)

    async def test_few_at_a_time(self) -> None:
        """However slow their reader is, four chunks of a run are on their way at the most, and leaving ends them."""
        arrived = asyncio.Event()

        async def slow(index: int, request: web.BaseRequest) -> web.StreamResponse:
            if index == 3:
                arrived.set()
            if index:
                await asyncio.Event().wait()
            return chunk(0)

        async with Station(parent_of(slow)) as parent, source(parent.url) as parents:
            async with parents.open(PLACE, EVERYTHING, len(DATA), Urgency(Priority.FOREGROUND)) as delivery:
                await arrived.wait()
                assert sorted(chunks_asked(parent)) == [0, 1, 2, 3]
                assert delivery.origin == "parent"
            assert not [task for task in asyncio.all_tasks() if "_chunk" in repr(task.get_coro())]

    @pytest.mark.parametrize("span", [None, Span(1, CHUNK)])
    async def test_streams_are_not_for_parents(self, span: Span | None) -> None:
        """A whole stream, or a span that begins within a chunk, is left to the next source."""
        async with Station(parent_of()) as parent, source(parent.url) as parents:
            with pytest.raises(Trouble):
                await read(parents, span)
            assert not parent.seen

    async def test_the_instances_passed_are_named(self) -> None:
        """A request on behalf of another instance names that one, too."""
        token = HOPS.set(("registry-proxy-edge",))
        try:
            async with Station(parent_of()) as parent, source(parent.url) as parents:
                await read(parents)
                assert parent.seen[0].headers["Via"] == "1.1 registry-proxy-edge, 1.1 registry-proxy-me"
        finally:
            HOPS.reset(token)


class TestWhatIsBelieved:
    @pytest.mark.parametrize(
        ("data", "digest"),
        [
            (bytes(CHUNK), repr_digest(sha256(chunk_of(0)))),
            (None, ""),
            (None, "sha-512=:AA==:"),
            (chunk_of(0)[:-1], None),
            (chunk_of(0) + b"x", None),
        ],
        ids=["flipped", "no digest", "another digest", "short", "long"],
    )
    async def test_wrong_bytes_are_trouble(self, data: bytes | None, digest: str | None) -> None:
        """Bytes that are not what Repr-Digest and the grid say are never delivered."""

        async def wrong(index: int, request: web.BaseRequest) -> web.StreamResponse:
            return chunk(index, data, digest) if index == 0 else chunk(index)

        async with Station(parent_of(wrong)) as parent, source(parent.url) as parents:
            with pytest.raises(UpstreamBroken):
                await read(parents)

    async def test_the_parents_own_list_decides(self) -> None:
        """Wrong bytes with a digest that fits them are found out by the list of the parent, had without a forward proxy."""

        async def forged(index: int, request: web.BaseRequest) -> web.StreamResponse:
            return chunk(index, bytes(GRID.length_of(index)))

        async with Station(parent_of(verified=HASHES)) as parent, Station(parent_of(forged, HASHES)) as squid:
            async with source(parent.url, groups=squid.url) as parents:
                assert await read(parents) == DATA
            assert indexes(parent).count(None) == 1
            assert None not in indexes(squid)
            assert set(chunks_asked(parent)) == set(range(11))

    async def test_a_list_of_another_grid_is_none(self) -> None:
        """A list that is not one of this blob's chunks is not used."""
        other = ChunkHashes(len(DATA) - 1, CHUNK, HASHES.chunk_hashes)
        async with Station(parent_of(verified=other)) as parent, source(parent.url) as parents:
            assert await read(parents) == DATA

    async def test_no_list_no_delay(self) -> None:
        """A list that nobody has is asked for once in a while, not for each chunk."""
        async with Station(parent_of()) as parent, source(parent.url) as parents:
            await read(parents)
            await read(parents)
            assert indexes(parent).count(None) == 1

    async def test_a_doubted_blob_is_not_asked_for(self) -> None:
        """Once a blob turned out wrong, parents are left out of it for a while."""
        async with Station(parent_of()) as parent, source(parent.url) as parents:
            parents.doubt(PLACE.digest)
            with pytest.raises(BlobUnknown):
                await read(parents)
            assert not parent.seen


class TestRefusals:
    async def test_private_blobs_are_not_asked_for(self) -> None:
        """What is not for everybody is not even named to a parent."""
        async with Station(parent_of()) as parent, source(parent.url, public=False) as parents:
            with pytest.raises(BlobUnknown):
                await read(parents)
            assert not parent.seen

    async def test_unknown(self) -> None:
        """A blob that a parent does not have is not asked for again at once."""
        async with Station(says(status=404)) as parent, source(parent.url) as parents:
            for _ in range(3):
                with pytest.raises(BlobUnknown):
                    await read(parents)
            assert len(parent.seen) <= 4

    @pytest.mark.parametrize("status", [500, 502, 503, 508])
    async def test_trouble(self, status: int) -> None:
        """A parent in trouble, or in a loop, is no answer: another parent is asked, else the next source."""
        async with Station(says(status=status)) as bad, Station(parent_of()) as good:
            async with source(bad.url) as parents:
                with pytest.raises(Trouble):
                    await read(parents)
            async with source(bad.url, good.url) as parents:
                assert await read(parents) == DATA

    async def test_busy_is_waited_for(self) -> None:
        """A chunk that the parent has not got yet is asked for again after the time it says; no forward proxy is burnt."""
        busy = says(status=429, Retry_After="1")
        first = in_turn(busy, parent_of())
        async with Station(first) as squid, Station(parent_of()) as parent:
            async with source(parent.url, groups=f"{squid.url};DIRECT") as parents:
                assert await read(parents, Span(0, CHUNK)) == chunk_of(0)
            assert chunks_asked(squid) == [0, 0]
            assert not chunks_asked(parent)

    async def test_busy_beyond_patience(self) -> None:
        """Beyond patience the reader is told to come back, and no other source is asked: it is NotSoon, not trouble."""
        async with Station(says(status=429, Retry_After="30")) as parent, source(parent.url, patience=20) as parents:
            with pytest.raises(NotSoon) as caught:
                await read(parents, Span(0, CHUNK))
            assert not isinstance(caught.value, Trouble)
            assert caught.value.retry_after >= 30
            assert len(parent.seen) == 1

    async def test_failing_in_mid_run(self) -> None:
        """What was right is delivered, then the run breaks off with trouble, so that the rest is asked of the next source."""

        async def ends(index: int, request: web.BaseRequest) -> web.StreamResponse:
            return chunk(index) if index < 6 else web.Response(status=404 if index == 6 else 502)

        async with Station(parent_of(ends)) as parent, source(parent.url) as parents:
            got = bytearray()
            with pytest.raises(Trouble):
                await read(parents, into=got)
            assert got == DATA[: 6 * CHUNK]


class TestSeveralParents:
    async def test_they_share_the_chunks(self) -> None:
        """Each parent has its share of the chunks, the same for every instance."""
        async with Station(parent_of()) as one, Station(parent_of()) as two:
            for urls in ((one.url, two.url), (two.url, one.url)):
                async with source(*urls) as parents:
                    assert await read(parents) == DATA
            keys = [f"{PLACE.digest.hex}/{index}".encode() for index in range(11)]
            mine = {index for index, key in enumerate(keys) if score(one.url, key) > score(two.url, key)}
            assert set(chunks_asked(one)) == mine
            assert set(chunks_asked(two)) == set(range(11)) - mine

    @pytest.mark.parametrize("how", ["dead", "cut"])
    async def test_they_stand_in_for_each_other(self, how: str) -> None:
        """A parent that is gone costs a try, and its share comes from the others."""
        async with Station(breaks_off) as bad, Station(parent_of()) as good:
            url = bad.url if how == "cut" else await dead_url()
            async with source(url, good.url) as parents:
                assert await read(parents) == DATA


class TestInstances:
    """Whole instances, one the parent of the other, in front of one registry."""

    @pytest.fixture
    def digest(self, upstream: FakeUpstream) -> Digest:
        return upstream.add_blob(DATA)

    async def test_an_edge_asks_its_parent(self, tmp_path: Path, upstream: FakeUpstream, digest: Digest) -> None:
        """What two edges read comes over the border once; that a parent gave it is no fact about the repository."""
        async with benches(tmp_path / "p", upstream)(listen=True) as parent:
            for name in ("a", "b"):
                async with benches(tmp_path / name, upstream)(parents=(parent.url,)) as edge:
                    assert await edge.read(digest) == DATA
                    assert await edge.read(digest, Span(5, 100)) == DATA[5:100]
            assert upstream.sent(digest) == len(DATA)

    async def test_a_slow_parent_is_waited_for(self, tmp_path: Path, upstream: FakeUpstream, digest: Digest) -> None:
        """While the parent's own download crawls, an edge waits for it and buys nothing itself."""
        upstream.ranges = False
        upstream.gate = gate = Gate(CHUNK)
        make = benches(tmp_path / "p", upstream)
        async with make(listen=True) as parent, benches(tmp_path / "e", upstream)(parents=(parent.url,)) as edge:
            reading = asyncio.create_task(edge.read(digest, Span(8 * CHUNK, 9 * CHUNK)))
            await gate.blocked()
            async with parent.wire() as wire:
                path = ChunkName(digest, CHUNK, 8).path
                told = await wire.ask(path, f"OCI-Namespace: {PLACE.upstream}", f"OCI-Repository: {REPOSITORY}")
                assert (told.status, told.headers["Cache-Control"]) == (429, "no-store")
                assert int(told.headers["Retry-After"]) >= 1
            gate.open()
            assert await reading == DATA[8 * CHUNK : 9 * CHUNK]
            assert upstream.most_often(digest) == 1

    async def test_beyond_patience_nothing_is_bought(
        self, tmp_path: Path, upstream: FakeUpstream, digest: Digest
    ) -> None:
        """A chunk that the parent does not get in time is 503 for an edge's client, and never a second download."""
        upstream.ranges = False
        upstream.gate = Gate(CHUNK)
        policy = Policy(patience=Seconds(0.5))
        make = benches(tmp_path / "p", upstream)
        async with make(listen=True) as parent:
            async with benches(tmp_path / "e", upstream)(parents=(parent.url,), policy=policy) as edge:
                with pytest.raises(NotSoon):
                    await edge.read(digest, Span(8 * CHUNK, 9 * CHUNK))
            assert len(upstream.asked("blob", "GET")) == 1

    async def test_instances_that_are_each_others_parents(
        self, tmp_path: Path, upstream: FakeUpstream, digest: Digest, unused_tcp_port_factory: Callable[[], int]
    ) -> None:
        """A loop is found at once, and the upstream is asked."""
        ports = [unused_tcp_port_factory() for _ in range(3)]
        first, second, third = (f"127.0.0.1:{port}" for port in ports)
        one = benches(tmp_path / "1", upstream)(listen=True, address=first, parents=(f"http://{second}",))
        two = benches(tmp_path / "2", upstream)(listen=True, address=second, parents=(f"http://{third}",))
        three = benches(tmp_path / "3", upstream)(listen=True, address=third, parents=(f"http://{first}",))
        async with one as reader, two, three, asyncio.timeout(10):
            assert await reader.read(digest) == DATA

    async def test_wrong_bytes_do_not_poison_the_next_try(
        self, tmp_path: Path, upstream: FakeUpstream, digest: Digest
    ) -> None:
        """A parent whose forged chunks nothing but the digest of the whole blob tells is left out of the next try."""

        async def forged(index: int, request: web.BaseRequest) -> web.StreamResponse:
            return chunk(index, bytes(GRID.length_of(index)))

        make = benches(tmp_path / "e", upstream)
        async with Station(parent_of(forged)) as parent, make(parents=(parent.url,)) as edge:
            with pytest.raises(ContentCorrupt):
                await edge.read(digest)
            assert await edge.read(digest) == DATA

    async def test_a_parent_that_dies(self, tmp_path: Path, upstream: FakeUpstream, digest: Digest) -> None:
        """When a parent breaks off in mid-run the rest comes from the upstream."""

        async def dies(index: int, request: web.BaseRequest) -> web.StreamResponse:
            return chunk(index) if index < 5 else await breaks_off(request)

        async with Station(parent_of(dies)) as parent:
            async with benches(tmp_path / "e", upstream)(parents=(parent.url,)) as edge:
                assert await edge.read(digest) == DATA
            assert upstream.sent(digest) == len(DATA) - 5 * CHUNK

    async def test_private_blobs(self, tmp_path: Path, upstream: FakeUpstream, digest: Digest) -> None:
        """What the parent can only read with its account it gives to nobody as chunks, stored or not."""
        upstream.auth, upstream.public_pull = "basic", False
        account = Account(username=upstream.username, password=upstream.password)
        make = benches(tmp_path / "p", upstream)
        async with make(listen=True, account=account) as parent, parent.wire() as wire:
            where = (f"OCI-Namespace: {PLACE.upstream}", f"OCI-Repository: {REPOSITORY}")
            path = ChunkName(digest, CHUNK, 0).path
            assert (await wire.ask(path, *where)).status == 404
            assert await parent.read(digest) == DATA
            assert (await wire.ask(path, *where)).status == 404
            assert (await wire.ask(ChunkName(digest, CHUNK, None).path, *where)).status == 404

    async def test_the_list_of_a_verified_blob(self, tmp_path: Path, upstream: FakeUpstream, digest: Digest) -> None:
        """A parent that has read a blob to its end gives the hashes of its chunks, and its chunks without asking anybody."""
        async with benches(tmp_path / "p", upstream)(listen=True) as parent, parent.wire() as wire:
            where = (f"OCI-Namespace: {PLACE.upstream}", f"OCI-Repository: {REPOSITORY}")
            path = ChunkName(digest, CHUNK, None).path
            assert (await wire.ask(path, *where)).status == 404
            assert await parent.read(digest) == DATA
            asked = len(upstream.requests)
            answer = await wire.ask(path, *where)
            assert msgspec.json.decode(answer.body, type=ChunkHashes) == HASHES
            for index in (0, 10):
                got = await wire.ask(ChunkName(digest, CHUNK, index).path, *where)
                assert (got.status, got.body) == (200, chunk_of(index))
                assert got.headers["Repr-Digest"] == repr_digest(sha256(chunk_of(index)))
            assert len(upstream.requests) == asked
