"""An image that nobody prepared, lazily: in a registry without byte ranges, by the forms that the proxy makes of it."""

import hashlib
import io
import json
import tarfile
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry_proxy.lazy.soci import INDEX_DIGEST, INDEX_V1
from registry_proxy.lazy.ztoc.index import ZtocIndex
from registry_proxy.lazy.ztoc.ztoc import Ztoc, parse, points
from registry_proxy.plan.chunks import Span
from tests.interop.harness.containerd import containerd_2, lazy_containerd
from tests.interop.harness.front import Front, front
from tests.interop.harness.proxy import SOURCE, registry_proxy
from tests.interop.harness.registries import Image
from tests.interop.test_lazy_start import NUMPY, start_lazily
from tests.setup import layout as oci

EVERYTHING = '[lazy]\nsmallest_layer = 0\nwait = "60s"\n'


def settings(directory: Path) -> tuple[str, Path]:
    """The flag that lets the proxy index layers of any size."""
    file = directory / "proxy.toml"
    file.write_text(EVERYTHING, encoding="utf-8")
    return "--config", file


def test_a_stock_image_starts_lazily_by_its_suffix(
    gitlab: Front, pushed: dict[str, Image], work: Path, figure: Callable[[str], None]
) -> None:
    """The real snapshotter mounts every layer of TAG-esgz and numpy computes; it costs the upstream the image once."""
    image = pushed["py"]
    with (
        registry_proxy(work / "proxy", {SOURCE: gitlab.url}, *settings(work)) as proxy,
        front(proxy.address, work) as tap,
    ):
        for node, name in (("one", "first request, conversion included"), ("two", "second node")):
            before = tap.sent()
            with lazy_containerd(work / node, SOURCE, tap.address, "no_background_fetch = true\n") as containerd:
                seconds = start_lazily(containerd, image, "latest-esgz")
            figure(f"lazy start of a stock image by -esgz, {name}: {seconds:.1f} s, node ingress "
                   f"{(tap.sent() - before) / 1e6:.1f} MB, image {image.size / 1e6:.1f} MB")  # fmt: skip
            assert tap.sent() - before < image.size
        assert gitlab.sent() <= 1.06 * image.size
        with containerd_2(work / "whole", {SOURCE: f"http://{proxy.address}"}) as containerd:
            for tag in ("latest-esgz", "latest-soci"):  # each diff_id is checked as it is unpacked
                containerd.pull(f"{SOURCE}/{image.repository}:{tag}")
                printed = containerd.run(f"{SOURCE}/{image.repository}:{tag}", "numpy", *NUMPY)
                assert printed.split() == ["45"]


class Snapshotter:
    """Does on the wire what the SOCI snapshotter does for a layer."""

    def __init__(self, address: str, image: Image) -> None:
        self._base = f"http://{address}/v2/{SOURCE}/{image.repository}"
        self.received = 0

    def get(self, path: str, accept: str = "*/*", span: Span | None = None) -> bytes:
        headers = {"Accept": accept} | ({"Range": f"bytes={span.start}-{span.stop - 1}"} if span else {})
        with urllib.request.urlopen(urllib.request.Request(self._base + path, headers=headers), timeout=120) as answer:
            assert answer.status == (206 if span else 200)
            data: bytes = answer.read()
        self.received += len(data)
        return data

    def index_by_referrers(self, manifest: str) -> bytes:
        """v1: the first referrer of the type."""
        listed = json.loads(self.get(f"/referrers/{manifest}?artifactType={urllib.parse.quote(INDEX_V1, safe='')}"))
        found = listed["manifests"][0]
        assert found["artifactType"] == INDEX_V1
        return self.checked(f"/manifests/{found['digest']}")

    def index_by_annotation(self, tag: str) -> bytes:
        """v2: the annotation of the image manifest."""
        listed = json.loads(self.get(f"/manifests/{tag}"))
        manifest = json.loads(self.checked(f"/manifests/{listed['manifests'][0]['digest']}"))
        return self.checked(f"/manifests/{manifest['annotations'][INDEX_DIGEST]}")

    def checked(self, path: str) -> bytes:
        """What has a digest in its path."""
        data = self.get(path)
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == path.rpartition("/")[2]
        return data

    def tar(self, layer: str, ztoc: Ztoc) -> bytes:
        """The layer's tar, span by span: each asked for as a range, checked by its digest, inflated from its own point."""
        index = ZtocIndex(_by_spans(ztoc))

        def read(span: Span) -> bytes:
            return self.get(f"/blobs/{layer}", span=span)

        return b"".join(b"".join(index.content(index.files[f"{n}"], read)) for n in range(len(ztoc.digests)))


def _by_spans(ztoc: Ztoc) -> Ztoc:
    """The zTOC as if each span held one file, of all its bytes."""
    starts = [point.uncompressed for point in points(ztoc)]
    entry = next(entry for entry in ztoc.entries if entry.kind == "reg")
    spans = zip(starts, [*starts[1:], ztoc.uncompressed], strict=True)
    entries = [
        replace(entry, name=b"%d" % number, offset=start, size=stop - start)
        for number, (start, stop) in enumerate(spans)
    ]
    return replace(ztoc, entries=tuple(entries))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_every_file_by_the_soci_index(
    gitlab: Front, pushed: dict[str, Image], work: Path, version: str, figure: Callable[[str], None]
) -> None:
    """Referrers or annotation, the index encoded again as Go would, zTOCs, spans: every file is the original's."""
    image = pushed["py"]
    with registry_proxy(work / "proxy", {SOURCE: gitlab.url}, *settings(work)) as proxy:
        client = Snapshotter(proxy.address, image)
        by_annotation = client.index_by_annotation("latest-soci")  # v1 does not wait so long: it is ready by then
        index = client.index_by_referrers(image.manifest_digest) if version == "v1" else by_annotation
        assert json.dumps(json.loads(index), separators=(",", ":")).encode() == index
        layers = json.loads(index)["layers"]
        assert [each["annotations"]["com.amazon.soci.image-layer-digest"] for each in layers] == [
            each["digest"] for each in oci.manifest(image.layout)["layers"]
        ]
        files = sum(compare(client, image, each) for each in layers)
        figure(f"SOCI {version}: {files} files read by spans, {client.received / 1e6:.1f} MB for all of the image")
        assert files > 1000
        assert gitlab.sent() <= 1.06 * image.size


def compare(client: Snapshotter, image: Image, layer: dict[str, dict[str, str]]) -> int:
    """Compares every regular file of a layer, as its zTOC has it, with the layer itself; their number."""
    digest = layer["annotations"]["com.amazon.soci.image-layer-digest"]
    ztoc = parse(client.checked(f"/blobs/{layer['digest']}"))
    tar = client.tar(digest, ztoc)
    original = zlib.decompress(oci.blob(image.layout, digest).read_bytes(), 31)
    count = 0
    entries = {entry.name.rstrip(b"/"): entry for entry in ztoc.entries}
    with tarfile.open(fileobj=io.BytesIO(original)) as archive:
        for member in archive:
            if member.isreg():
                entry, source = entries[member.name.encode("utf-8", "surrogateescape")], archive.extractfile(member)
                assert source is not None
                assert tar[entry.offset : entry.offset + entry.size] == source.read()
                count += 1
    return count
