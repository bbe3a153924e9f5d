"""An image that nobody prepared, lazily: in a registry without byte ranges, by the forms that the proxy makes of it."""

import hashlib
import io
import json
import sys
import tarfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from registry_proxy.lazy.soci import INDEX_V2
from tests.interop.harness.clients import podman, regctl_copy
from tests.interop.harness.containerd import containerd_2, lazy_containerd
from tests.interop.harness.front import Front, front
from tests.interop.harness.process import call, free_port
from tests.interop.harness.proxy import SOURCE, registry_proxy
from tests.interop.harness.registries import Image, registry
from tests.interop.harness.soci import SociClient, SociLayer
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
    """Without an instance: the copy in a layout that skopeo reads, and both forms in another registry from which they start lazily."""
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
        registry_proxy_command(*words, "--format", "soci", "--to", f"http://{other}", image_name(image))
        client = SociClient(other, image.repository)
        layers = client.layers(client.tagged("latest-soci"), "v2")
        assert b"Debian" in layers[0].read("usr/lib/os-release")


def test_lazy_forms_are_images_for_everybody(gitlab: Front, pushed: dict[str, Image], work: Path) -> None:
    """podman, which knows neither form, runs both; regctl copies all that is listed under -soci: image, index and zTOCs."""
    image = pushed["py"]
    with registry_proxy(work / "proxy", {SOURCE: gitlab.url}, *settings(work)) as proxy:
        with podman(work / "podman", SOURCE, proxy.address) as client:
            for tag in ("latest-esgz", "latest-soci"):
                client.pull(f"{SOURCE}/{image.repository}:{tag}")
                assert client.run(f"{SOURCE}/{image.repository}:{tag}", *NUMPY).split() == ["45"]
        copied = regctl_copy(f"{proxy.address}/{SOURCE}/{image.repository}:latest-soci", work / "copy")
    documents = [json.loads(oci.blob(work / "copy", digest).read_bytes()) for digest in copied if copied[digest] < 5000]
    [index] = [each for each in documents if each.get("config", {}).get("mediaType") == INDEX_V2]
    assert len(index["layers"]) == len(image.layer_digests)
    assert {each["digest"] for each in index["layers"]} <= copied.keys()
    assert set(image.layer_digests) <= copied.keys()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_every_file_by_the_soci_index(
    gitlab: Front, pushed: dict[str, Image], work: Path, version: Literal["v1", "v2"], figure: Callable[[str], None]
) -> None:
    """Referrers or annotation, index and zTOCs through the snapshotter's own library, then spans: every file is the original's."""
    image = pushed["py"]
    with (
        registry_proxy(work / "proxy", {SOURCE: gitlab.url}, *settings(work)) as proxy,
        front(proxy.address, work) as tap,
    ):
        client = SociClient(tap.address, f"{SOURCE}/{image.repository}")
        if version == "v1":  # who asks for referrers does not wait for long
            registry_proxy_command("lazy", "convert", "--server", proxy.url, "--format", "soci", image_name(image))
        layers = client.layers(client.tagged("latest-soci") if version == "v2" else image.manifest_digest, version)
        assert [each.digest for each in layers] == [each["digest"] for each in oci.manifest(image.layout)["layers"]]
        files = sum(compare(each, oci.blob(image.layout, each.digest).read_bytes()) for each in layers)
        figure(f"SOCI {version}: {files} files read by spans, {tap.sent() / 1e6:.1f} MB for all of the image")
        assert files > 1000
        assert gitlab.sent() <= 1.06 * image.size


def compare(layer: SociLayer, original: bytes) -> int:
    """Compares every regular file of a layer, as its zTOC has it, with the layer itself; their number."""
    count, tar = 0, layer.tar()
    with tarfile.open(fileobj=io.BytesIO(zlib.decompress(original, 31))) as archive:
        for member in archive:
            if member.isreg():
                entry, source = layer.entries[member.name], archive.extractfile(member)
                assert source is not None
                assert tar[entry.offset : entry.offset + entry.size] == source.read()
                count += 1
    return count
