"""An image that nobody prepared, lazily: in a registry without byte ranges, by the forms that the proxy makes of it."""

import hashlib
import io
import json
import sys
import tarfile
import time
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from registry_proxy.lazy.soci import INDEX_DIGEST, INDEX_V1
from registry_proxy.lazy.ztoc.index import ZtocIndex
from registry_proxy.lazy.ztoc.ztoc import Ztoc, parse, points
from registry_proxy.plan.chunks import Span
from tests.interop.harness.containerd import containerd_2, lazy_containerd
from tests.interop.harness.front import Front, front
from tests.interop.harness.process import call, free_port
from tests.interop.harness.proxy import SOURCE, registry_proxy
from tests.interop.harness.registries import Image, registry
from tests.interop.test_lazy_start import NUMPY, start_lazily
from tests.setup import layout as oci

TREE = Path(__file__).parents[2]
EVERYTHING = '[lazy]\nsmallest_layer = 0\nwait = "60s"\n'


def image_name(image: Image) -> str:
    return f"{SOURCE}/{image.repository}:latest"


def registry_proxy_command(*words: str | Path) -> str:
    """What the command prints."""
    return call(sys.executable, "-m", "registry_proxy", *words, environment={"PYTHONPATH": str(TREE)})


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


def test_converted_elsewhere(
    gitlab: Front, pushed: dict[str, Image], work: Path, figure: Callable[[str], None]
) -> None:
    """Without an instance: the copy in a layout that skopeo reads, and in another registry from which it starts lazily by itself."""
    image, layout = pushed["py"], work / "layout"
    upstream = f"--upstream={SOURCE}={gitlab.url}"
    words = ("lazy", "convert", "--json", upstream, "--store", work / "store", "--listen", f"127.0.0.1:{free_port()}")
    with registry(work / "other", work) as other:
        for to in (layout, f"http://{other}"):
            began = time.monotonic()
            [made] = json.loads(registry_proxy_command(*words, "--to", to, image_name(image)))["images"]
            figure(f"lazy convert --to {str(to)[:4]}…: {time.monotonic() - began:.1f} s")
            assert made["error"] is None
            assert made["image"].endswith(":latest-esgz")
        assert gitlab.sent() <= 1.06 * image.size  # converted once, for both
        call("skopeo", "copy", "--insecure-policy", f"oci:{layout}:latest-esgz", f"dir:{work / 'copy'}")
        assert f"sha256:{hashlib.sha256((work / 'copy/manifest.json').read_bytes()).hexdigest()}" == made["digest"]
        with lazy_containerd(work / "node", SOURCE, other) as containerd:
            start_lazily(containerd, image, "latest-esgz")


class Snapshotter:
    """Does on the wire what the SOCI snapshotter does for a layer."""

    def __init__(self, address: str, image: Image) -> None:
        self._base = f"http://{address}/v2/{SOURCE}/{image.repository}"
        self.received: list[int] = []

    def get(self, path: str, accept: str = "*/*", span: Span | None = None) -> bytes:
        headers = {"Accept": accept} | ({"Range": f"bytes={span.start}-{span.stop - 1}"} if span else {})
        with urllib.request.urlopen(urllib.request.Request(self._base + path, headers=headers), timeout=120) as answer:
            assert answer.status == (206 if span else 200)
            data: bytes = answer.read()
        self.received.append(len(data))
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
        """The layer's tar: probed as it does, then span by span, six at once, each checked by its hash."""
        self.get(f"/blobs/{layer}", span=Span(0, 2))
        self.get(f"/blobs/{layer}", span=Span(0, 10))
        index = ZtocIndex(by_spans(ztoc))

        def inflated(number: int) -> bytes:
            return b"".join(
                index.content(index.files[f"{number}"], lambda span: self.get(f"/blobs/{layer}", span=span))
            )

        with ThreadPoolExecutor(6) as pool:
            return b"".join(pool.map(inflated, range(len(ztoc.digests))))


def by_spans(ztoc: Ztoc) -> Ztoc:
    """The zTOC as if each span held one file, of all its bytes and named by its number: reading that reads one range."""
    starts = [point.uncompressed for point in points(ztoc)]
    some_file = next(entry for entry in ztoc.entries if entry.kind == "reg")
    entries = tuple(
        msgspec.structs.replace(some_file, name=b"%d" % number, offset=start, size=stop - start)
        for number, (start, stop) in enumerate(zip(starts, [*starts[1:], ztoc.uncompressed], strict=True))
    )
    return replace(ztoc, entries=entries)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_every_file_by_the_soci_index(
    gitlab: Front, pushed: dict[str, Image], work: Path, version: str, figure: Callable[[str], None]
) -> None:
    """Referrers or annotation, the index encoded again as Go would, zTOCs, spans: every file is the original's."""
    image = pushed["py"]
    with registry_proxy(work / "proxy", {SOURCE: gitlab.url}, *settings(work)) as proxy:
        client = Snapshotter(proxy.address, image)
        if version == "v1":  # who asks for referrers does not wait until they are made
            registry_proxy_command("lazy", "convert", "--server", proxy.url, "--format", "soci", image_name(image))
            index = client.index_by_referrers(image.manifest_digest)
        else:
            index = client.index_by_annotation("latest-soci")
        assert json.dumps(json.loads(index), separators=(",", ":")).encode() == index
        layers = json.loads(index)["layers"]
        assert [each["annotations"]["com.amazon.soci.image-layer-digest"] for each in layers] == [
            each["digest"] for each in oci.manifest(image.layout)["layers"]
        ]
        files = sum(compare(client, image, each) for each in layers)
        figure(f"SOCI {version}: {files} files read by spans, {sum(client.received) / 1e6:.1f} MB for all of the image")
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
