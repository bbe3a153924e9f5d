"""Blobs that no digest has covered yet, compared with the TOC or zTOC that their manifest names."""

import asyncio
import contextlib
import gzip
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from registry_proxy.config import Lazy
from registry_proxy.errors import ContentCorrupt
from registry_proxy.lazy import layers, soci
from registry_proxy.lazy.estargz.footer import TOC_DIGEST
from registry_proxy.lazy.soci import ZtocOf
from registry_proxy.lazy.ztoc.builder import ZtocBuilder
from registry_proxy.lazy.ztoc.ztoc import encode
from registry_proxy.oci import content
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.ranges import Part
from registry_proxy.pull import comparison
from registry_proxy.pull import inspection as inspection_module
from registry_proxy.pull import inspections as inspections_module
from registry_proxy.pull.inspection import Inspection
from registry_proxy.pull.inspections import Inspections
from tests.fakes.faults import Flipped
from tests.fakes.instance import CHUNK, HOST, Bench, Benches, noise
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.lazy.layers import estargz, sha256, tar, zstd_chunked

FILES = {f"usr/lib/{number}": noise(20_000 + 7919 * number, number) for number in range(40)}
SIZE = 5000
FORMATS = ["estargz", "storage", "stargz", "soci"]
PATTERN = bytes(random.Random(1).choices(b"abcd", k=6 << 20))


def add_image(upstream: FakeUpstream, layer: bytes, annotations: Mapping[str, str]) -> tuple[Digest, Digest]:
    """An image of one layer; the digests of its manifest and of the layer."""
    digest = upstream.add_blob(layer)
    config = b'{"architecture":"amd64","os":"linux"}'
    described = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(config), "size": len(config)}
    described_layers = [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": str(digest),
            "size": len(layer),
            "annotations": dict(annotations),
        }
    ]
    upstream.add_blob(config)
    manifest = {"schemaVersion": 2, "mediaType": content.OCI_MANIFEST, "config": described, "layers": described_layers}
    return upstream.add_manifest(json.dumps(manifest).encode(), tag="v1"), digest


@dataclass(frozen=True)
class Made:
    """A layer's bytes, the annotations that lead to its TOC, or else its zTOC."""

    data: bytes
    annotations: dict[str, str]
    ztoc: bytes = b""


@pytest.fixture(scope="module")
def made() -> dict[str, Made]:
    """A layer of each format; frames are small, but for SOCI's, each of which reaches over a chunk's end."""
    data, toc = estargz(FILES, chunk=SIZE)
    found = {"estargz": Made(data, {TOC_DIGEST: sha256(toc)})}
    for dialect in ("storage", "stargz"):
        found[dialect] = Made(*zstd_chunked(FILES, dialect, chunk=SIZE))
    plain = gzip.compress(tar({"usr/lib/large": PATTERN}), 1)
    with ZtocBuilder(span_size=256 << 10) as builder:
        builder.feed(plain)
        found["soci"] = Made(plain, {}, encode(builder.finish()))
    return found


class Layer:
    """A layer at the upstream, in an image. ``chunks``: so many; ``middle``: one in its middle; ``inside``: of it, a byte in a frame
    that does not leave it."""

    def __init__(self, upstream: FakeUpstream, made: Made) -> None:
        self.data = made.data
        manifest, self.digest = add_image(upstream, made.data, made.annotations)
        self.manifests = [manifest]
        if made.ztoc:
            ztocs = {str(self.digest): ZtocOf(upstream.add_blob(made.ztoc), len(made.ztoc), 256 << 10)}
            index = soci.index_v1(upstream.content[manifest], content.OCI_MANIFEST, ztocs)
            self.manifests.append(upstream.add_manifest(index))
        self.chunks = -(-len(self.data) // CHUNK)
        self.middle = self.chunks // 2
        self.inside = self.middle * CHUNK + CHUNK // 2

    def span(self, index: int) -> Span:
        return Span(index * CHUNK, min((index + 1) * CHUNK, len(self.data)))

    async def known(self, b: Bench) -> Inspection:
        """The manifests have been pulled, and a lazy client has read the layer's end: its TOC is loaded."""
        for manifest in self.manifests:
            await b.instance.manifests.get(HOST, Repository(REPOSITORY), manifest)
        await b.read(self.digest, self.span(self.chunks - 1))
        return await self.inspection(b)

    async def inspection(self, b: Bench) -> Inspection:
        found = (await b.instance.blobs.open(b.place(self.digest))).flights.inspection
        assert found is not None
        await found.settled(self.chunks - 1)
        return found

    def has(self, b: Bench, index: int) -> bool:
        return b.instance.store.has(self.digest, index)


def figure(b: Bench, name: str) -> float:
    return b.instance.metrics.registry.get_sample_value(f"registry_proxy_{name.partition('{')[0]}", _labels(name)) or 0


def _labels(name: str) -> dict[str, str]:
    inside = name.partition("{")[2].rstrip("}")
    return dict([inside.split("=")]) if inside else {}


@pytest.mark.parametrize("form", FORMATS)
async def test_a_wrong_chunk_is_found_and_had_anew(
    bench: Benches, upstream: FakeUpstream, made: dict[str, Made], form: str
) -> None:
    """Of a blob that is never complete, a chunk with one wrong bit is evicted; whoever reads it next gets the right bytes."""
    layer = Layer(upstream, made[form])
    around = Span((layer.middle - 1) * CHUNK, (layer.middle + 2) * CHUNK)
    async with bench() as b:
        inspection = await layer.known(b)
        upstream.spoil(Flipped(layer.inside), times=1)
        with contextlib.suppress(ContentCorrupt):  # the answer may be over before it is found, or be cut
            await b.read(layer.digest, around)
        await inspection.settled(layer.middle)
        assert not layer.has(b, layer.middle)
        assert figure(b, "frames_compared_total{right=false}") >= 1
        assert await b.read(layer.digest, around) == layer.data[around.start : around.stop]
        await inspection.settled(layer.middle)
        assert layer.has(b, layer.middle)
        assert await b.read(layer.digest) == layer.data


@pytest.mark.parametrize("form", FORMATS)
async def test_a_client_that_waits_gets_the_right_bytes_at_once(
    bench: Benches, upstream: FakeUpstream, made: dict[str, Made], form: str
) -> None:
    """With ``verify_chunks = "before"`` the wrong bytes never reach it."""
    layer = Layer(upstream, made[form])
    around = Span((layer.middle - 1) * CHUNK, (layer.middle + 2) * CHUNK)
    async with bench(lazy=Lazy(verify_chunks="before")) as b:
        await layer.known(b)
        upstream.spoil(Flipped(layer.inside), times=1)
        if form == "soci":  # the frame began in the chunk before, which has gone out when it is found
            with pytest.raises(ContentCorrupt):
                await b.read(layer.digest, around)
        assert await b.read(layer.digest, around) == layer.data[around.start : around.stop]
        assert figure(b, "frames_compared_total{right=false}") == 1


async def test_right_chunks_are_compared_once_and_stay(
    bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """Nothing is evicted, nothing fetched twice, and hardly a frame is looked at twice."""
    layer = Layer(upstream, made["estargz"])
    async with bench() as b:
        inspection = await layer.known(b)
        for index in range(1, layer.chunks):
            await b.read(layer.digest, layer.span(index))
        for index in range(1, layer.chunks):
            await inspection.settled(index)
            await b.read(layer.digest, layer.span(index))
        frames = figure(b, "frames_compared_total{right=true}")
        assert figure(b, "frames_compared_total{right=false}") == 0
    contents = sum(-(-len(data) // SIZE) for data in FILES.values())
    assert contents - 30 < frames < 1.1 * contents
    assert upstream.most_often(layer.digest) == 1


async def test_what_was_here_before_its_toc_is_compared_too(
    bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """A wrong chunk of an earlier run is found when somebody reads the blob again."""
    layer = Layer(upstream, made["estargz"])
    async with bench(lazy=Lazy(verify_chunks="off")) as b:
        await layer_without_inspection(b, layer)
        upstream.spoil(Flipped(layer.inside), times=1)
        await b.read(layer.digest, layer.span(layer.middle))
    async with bench() as b:
        assert layer.has(b, layer.middle)
        inspection = await layer.known(b)
        await inspection.settled(layer.middle)
        assert not layer.has(b, layer.middle)


async def layer_without_inspection(b: Bench, layer: Layer) -> None:
    for manifest in layer.manifests:
        await b.instance.manifests.get(HOST, Repository(REPOSITORY), manifest)
    await b.read(layer.digest, layer.span(layer.chunks - 1))
    assert (await b.instance.blobs.open(b.place(layer.digest))).flights.inspection is None


async def test_a_toc_that_becomes_known_later_is_used(
    bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """The blob was opened before its manifest was seen."""
    layer = Layer(upstream, made["estargz"])
    async with bench() as b:
        await b.read(layer.digest, layer.span(0))
        assert (await b.instance.blobs.open(b.place(layer.digest))).flights.inspection is None
        await layer.known(b)
        assert figure(b, "tocs_total{outcome=used}") == 1


async def test_a_toc_that_comes_wrong_is_had_anew(
    bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """It does not hash to what the manifest says; the second time it does."""
    layer = Layer(upstream, made["estargz"])
    upstream.spoil(Flipped(len(layer.data) - 200), times=1)
    async with bench() as b:
        await layer.known(b)
        assert figure(b, "tocs_total{outcome=used}") == 1
        span = layer.span(layer.chunks - 1)
        assert await b.read(layer.digest, span) == layer.data[span.start : span.stop]


async def test_a_toc_that_is_too_large_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """Nothing is wrong with it: nothing is fetched twice, and nothing compared."""
    monkeypatch.setattr(layers, "LARGEST_TOC", 1000)
    layer = Layer(upstream, made["estargz"])
    async with bench() as b:
        assert (await layer.known(b)).over
        assert figure(b, "tocs_total{outcome=too-large}") == 1
    assert upstream.most_often(layer.digest) == 1


async def test_a_false_toc_costs_no_availability(
    monkeypatch: pytest.MonkeyPatch, bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """A TOC that contradicts what comes again and again is set aside, and everything is served."""
    data, toc = estargz(FILES, chunk=SIZE)
    monkeypatch.setattr(comparison, "_FOR", 0.0)
    name = b'"chunkDigest": "sha256:'
    at = toc.index(name, len(toc) // 2) + len(name)
    false = toc[:at] + (b"0" if toc[at : at + 1] != b"0" else b"1") + toc[at + 1 :]
    layer = Layer(upstream, Made(estargz_with(data, false), {TOC_DIGEST: sha256(false)}))
    async with bench() as b:
        inspection = await layer.known(b)
        for _ in range(4):
            for index in range(1, layer.chunks):
                span = layer.span(index)
                with contextlib.suppress(ContentCorrupt):
                    assert await b.read(layer.digest, span) == layer.data[span.start : span.stop]
                await inspection.settled(index)
        assert inspection.distrusted
        assert figure(b, "tocs_total{outcome=set-aside}") == 1
        assert await b.read(layer.digest) == layer.data
    assert upstream.most_often(layer.digest) == 3


def estargz_with(layer: bytes, toc: bytes) -> bytes:
    """An eStargz layer with another TOC."""
    start = int(layer[-51:][16 : 16 + 16], 16)
    return layer[:start] + gzip.compress(tar({"stargz.index.json": toc})) + layer[-51:]


async def test_a_claim_that_does_not_fit_is_not_believed(
    bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """A manifest that names a wrong TOC digest costs its blob one more fetch of the end, and nothing else."""
    layer = Layer(upstream, Made(made["estargz"].data, {TOC_DIGEST: sha256(b"something else")}))
    async with bench() as b:
        assert (await layer.known(b)).distrusted
        assert await b.read(layer.digest, layer.span(3)) == layer.data[3 * CHUNK : 4 * CHUNK]
        assert figure(b, "tocs_total{outcome=wrong}") == 1
    assert upstream.most_often(layer.digest) == 2


async def test_an_upstream_that_errs_for_a_while_is_not_believed(
    bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """The same wrong bytes are evicted each time they come, and none are left when it is well again."""
    layer = Layer(upstream, made["estargz"])
    async with bench() as b:
        inspection = await layer.known(b)
        upstream.spoil(Flipped(layer.inside))
        for _ in range(5):
            with contextlib.suppress(ContentCorrupt):
                await b.read(layer.digest, layer.span(layer.middle))
            await inspection.settled(layer.middle)
            assert not layer.has(b, layer.middle)
        upstream.heal()
        span = layer.span(layer.middle)
        assert await b.read(layer.digest, span) == layer.data[span.start : span.stop]
        assert not inspection.distrusted


async def test_a_client_that_waits_is_refused_what_stays_wrong(
    bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """With ``verify_chunks = "before"`` a chunk that came wrong twice fails its reader."""
    layer = Layer(upstream, made["estargz"])
    async with bench(lazy=Lazy(verify_chunks="before")) as b:
        await layer.known(b)
        upstream.spoil(Flipped(layer.inside))
        with pytest.raises(ContentCorrupt):
            await b.read(layer.digest, layer.span(layer.middle))
    assert upstream.most_often(layer.digest) == 2


async def test_a_toc_that_was_set_aside_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """What was believed against it meanwhile is found then."""
    monkeypatch.setattr(comparison, "_FOR", 0.0)
    monkeypatch.setattr(inspection_module, "_ASIDE", 0.0)
    layer = Layer(upstream, made["estargz"])
    async with bench() as b:
        inspection = await layer.known(b)
        upstream.spoil(Flipped(layer.inside))
        while not inspection.distrusted:
            with contextlib.suppress(ContentCorrupt):
                await b.read(layer.digest, layer.span(layer.middle))
            await inspection.settled(layer.middle)
        assert layer.has(b, layer.middle)
        upstream.heal()
        await b.read(layer.digest, layer.span(layer.middle))
        await inspection.settled(layer.middle)
        assert not layer.has(b, layer.middle)


async def test_frames_take_a_bounded_memory(
    monkeypatch: pytest.MonkeyPatch, bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """Those of the blob that was loaded first go, and are loaded again when it is read."""
    monkeypatch.setattr(inspections_module, "_MEMORY", 1)
    one, two = Layer(upstream, made["estargz"]), Layer(upstream, made["stargz"])
    async with bench() as b:
        first = await one.known(b)
        assert not first.idle
        await two.known(b)
        assert first.idle
        await one.known(b)
        assert figure(b, "tocs_total{outcome=used}") == 3
    assert upstream.most_often(one.digest) == 1


async def test_an_answer_under_way_is_cut_when_its_chunk_is_found_wrong(
    monkeypatch: pytest.MonkeyPatch, bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """Wrong bytes that have gone out are not followed by a clean end."""
    layer = Layer(upstream, made["estargz"])
    async with bench() as b:
        inspection = await layer.known(b)
        compare, release = Inspections.run, asyncio.Event()

        async def late(self: Inspections, *work: Any) -> Any:
            await release.wait()
            return await compare(self, *work)

        monkeypatch.setattr(Inspections, "run", late)
        upstream.spoil(Flipped(layer.inside), times=1)
        blob = await b.instance.blobs.open(b.place(layer.digest))
        part = Span((layer.middle - 1) * CHUNK, (layer.middle + 3) * CHUNK)
        async with blob.read([Part(part)]) as reader, contextlib.aclosing(reader.pieces(0)) as pieces:
            await anext(pieces)
            await anext(pieces)
            release.set()
            await inspection.settled(layer.middle)
            await anext(pieces)
            with pytest.raises(ContentCorrupt):
                await anext(pieces)


async def test_a_whole_pull_asks_for_no_toc(bench: Benches, upstream: FakeUpstream, made: dict[str, Made]) -> None:
    """The blob's digest decides there: not one request more, and nothing is compared."""
    layer = Layer(upstream, made["estargz"])
    async with bench() as b:
        await b.instance.manifests.get(HOST, Repository(REPOSITORY), layer.manifests[0])
        assert await b.read(layer.digest) == layer.data
        assert figure(b, "tocs_total{outcome=used}") == 0
    assert upstream.most_often(layer.digest) == 1


async def test_a_layer_without_a_toc_costs_nothing(
    bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """Nothing but what its reader asks for is fetched."""
    data = noise(10 * CHUNK)
    manifest, digest = add_image(upstream, data, {"some": "annotation"})
    async with bench() as b:
        await b.instance.manifests.get(HOST, Repository(REPOSITORY), manifest)
        await b.read(digest, Span(2 * CHUNK, 3 * CHUNK))
        assert (await b.instance.blobs.open(b.place(digest))).flights.inspection is None
    assert upstream.sent(digest) == CHUNK


async def test_a_range_less_upstream_keeps_nobody_waiting_for_its_toc(
    bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """The TOC comes last there: a reader of the beginning has its bytes before."""
    upstream.ranges = False
    layer = Layer(upstream, made["estargz"])
    async with bench(lazy=Lazy(verify_chunks="before")) as b:
        await b.instance.manifests.get(HOST, Repository(REPOSITORY), layer.manifests[0])
        upstream.bytes_per_second = 4 << 20
        async with asyncio.timeout(5):
            assert await b.read(layer.digest, Span(0, 100)) == layer.data[:100]
        assert not layer.has(b, layer.chunks - 1)


async def test_a_toc_stays_when_its_layer_is_evicted_in_part(
    bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """The group of chunks that holds it goes after the others of its layer, though it was used before them."""
    files = {f"{number}": noise(400_000, number) for number in range(24)}
    data, toc = estargz(files, chunk=100_000)
    manifest, digest = add_image(upstream, data, {TOC_DIGEST: sha256(toc)})
    other = upstream.add_blob(noise(6 << 20, 99))
    chunks = -(-len(data) // CHUNK)
    assert chunks > 128
    async with bench(limit=12 << 20) as b:
        await b.instance.manifests.get(HOST, Repository(REPOSITORY), manifest)
        await b.read(digest, Span(len(data) - 100, len(data)))
        inspection = (await b.instance.blobs.open(b.place(digest))).flights.inspection
        assert inspection is not None
        await inspection.settled(chunks - 1)
        await b.instance.store.drop(digest)  # what is had again is spared again
        await b.read(digest, Span(len(data) - 100, len(data)))
        await b.read(digest, Span(0, 128 * CHUNK))
        for index in range(128):
            await inspection.settled(index)
        await b.read(other)
        assert b.instance.store.stats().evictions >= 1
        assert b.instance.store.has(digest, chunks - 1)
        assert b.instance.store.missing(digest, b.instance.store.grid(len(data))) >= 60


async def test_one_chunk_takes_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch, bench: Benches, upstream: FakeUpstream, made: dict[str, Made]
) -> None:
    """What it holds beyond a limit is not inflated."""
    monkeypatch.setattr(comparison, "_MOST_INFLATED", 2 * SIZE)
    layer = Layer(upstream, made["estargz"])
    async with bench() as b:
        inspection = await layer.known(b)
        before = figure(b, "frames_compared_total{right=true}")
        await b.read(layer.digest, layer.span(layer.middle))
        await inspection.settled(layer.middle)
        assert 2 <= figure(b, "frames_compared_total{right=true}") - before <= 5  # of some thirteen
