"""Real eStargz and zstd:chunked layers, made by the reference library and by podman, compared with the TOCs that they carry."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_proxy.errors import ContentCorrupt
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository
from registry_proxy.plan.chunks import MIB, Span
from registry_proxy.pull.inspection import Inspection
from tests.fakes.faults import Flipped
from tests.fakes.instance import HOST, Bench, benches
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.setup import images
from tests.setup import layout as oci


def stock(upstream: FakeUpstream, name: str) -> tuple[Digest, list[Digest]]:
    """Put an image into the upstream; its manifest and its layers."""
    layout = images.layout(name)
    manifest = oci.manifest(layout)
    for described in (manifest["config"], *manifest["layers"]):
        upstream.add_blob(oci.blob(layout, described["digest"]).read_bytes())
    text = oci.blob(layout, oci.manifest_digest(layout)).read_bytes()
    return upstream.add_manifest(text), [Digest.parse(layer["digest"]) for layer in manifest["layers"]]


def figure(b: Bench, right: bool) -> float:
    labels = {"right": str(right).lower()}
    return b.instance.metrics.registry.get_sample_value("registry_proxy_frames_compared_total", labels) or 0


def spans(size: int) -> Iterator[Span]:
    """All chunks from the last to the first, but for the second one and the one in the middle."""
    count = -(-size // MIB)
    for index in reversed(range(count)):
        if index not in {1, count // 2}:
            yield Span(index * MIB, min((index + 1) * MIB, size))


@pytest.mark.parametrize("name", ["py-esgz", "py-zstdchunked"])
async def test_real_layers(tmp_path: Path, name: str) -> None:
    """Not one frame of them is found wrong; then one bit of one chunk is, and the chunk is had anew."""
    async with FakeUpstream() as upstream, benches(tmp_path / "store", upstream)(chunk_size=MIB) as b:
        manifest, layers = stock(upstream, name)
        await b.instance.manifests.get(HOST, Repository(REPOSITORY), manifest)
        for digest in layers:
            inspection = await read_most(b, digest, upstream.content[digest])
            assert (figure(b, right=False), inspection.over) == (0, False)
        assert figure(b, right=True) > 3000

        data = upstream.content[layers[-1]]
        middle = -(-len(data) // MIB) // 2
        span = Span(middle * MIB, (middle + 1) * MIB)
        upstream.spoil(Flipped(span.start + MIB // 2), times=1)
        with contextlib.suppress(ContentCorrupt):
            await b.read(layers[-1], span)
        await inspection.settled(middle)
        assert figure(b, right=False) > 0
        assert not b.instance.store.has(layers[-1], middle)
        assert await b.read(layers[-1], span) == data[span.start : span.stop]
        assert await b.read(layers[-1]) == data


async def read_most(b: Bench, digest: Digest, data: bytes) -> Inspection:
    """Read a layer but for two chunks, and wait until it has been compared."""
    for span in spans(len(data)):
        await b.read(digest, span)
    inspection = (await b.instance.blobs.open(b.place(digest))).flights.inspection
    assert inspection is not None
    for span in spans(len(data)):
        await inspection.settled(span.start // MIB)
    return inspection
