"""An image copied by the project, by hand: started lazily by the real snapshotter, and pulled in full."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from registry_proxy.lazy.convert.image import rewrite_image
from registry_proxy.lazy.convert.layer import convert_layer
from registry_proxy.lazy.convert.values import ConvertedLayer, Options
from tests.interop.harness.containerd import containerd_2, lazy_containerd
from tests.interop.harness.process import call, isolated
from tests.interop.harness.proxy import SOURCE
from tests.interop.harness.registries import Image, registry
from tests.interop.test_lazy_start import NUMPY, start_lazily
from tests.lazy.layers import sha256
from tests.setup import images
from tests.setup import layout as oci


def copied(name: str, layout: Path) -> Image:
    """The copy of a test image, with what a start of it opens in front, as a layout of its own."""
    source, blobs = images.layout(name), layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    opened = tuple((source.parent / "opened").read_text(encoding="utf-8").split())
    layers: list[ConvertedLayer | None] = []
    for described in oci.manifest(source)["layers"]:
        with oci.blob(source, described["digest"]).open("rb") as file:
            made = convert_layer(file, described["mediaType"], blobs / "new", options=Options(prioritized=opened))
        (blobs / "new").rename(blobs / made.digest.hex)
        layers.append(made)
    manifest = oci.blob(source, oci.manifest_digest(source)).read_bytes()
    config = oci.blob(source, oci.manifest(source)["config"]["digest"]).read_bytes()
    image = rewrite_image(manifest, config, layers)
    for body in (image.manifest, image.config):
        (blobs / sha256(body).removeprefix("sha256:")).write_bytes(body)
    described = {
        "mediaType": oci.MANIFEST,
        "digest": sha256(image.manifest),
        "size": len(image.manifest),
        "annotations": {"org.opencontainers.image.ref.name": "latest"},
    }
    write_json(layout / "index.json", {"schemaVersion": 2, "manifests": [described]})
    write_json(layout / "oci-layout", {"imageLayoutVersion": "1.0.0"})
    return Image("copy", layout)


def write_json(path: Path, document: Any) -> None:
    path.write_bytes(msgspec.json.encode(document))


def test_a_copy_starts_lazily_and_pulls_whole(work: Path, figure: Callable[[str], None]) -> None:
    """The snapshotter mounts every layer and numpy computes; an ordinary containerd unpacks it, which checks each diff_id."""
    image = copied("py", work / "layout")
    with registry(work / "registry", work) as address:
        call(*isolated("skopeo", "copy", "--insecure-policy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
                       f"oci:{image.layout}:latest", f"docker://{address}/{image.repository}:latest"))  # fmt: skip
        with lazy_containerd(work / "lazy", SOURCE, address) as containerd:
            seconds = start_lazily(containerd, image)
            figure(f"lazy start of a copy of our own: {seconds:.1f} s, image {image.size / 1e6:.1f} MB")
        with containerd_2(work / "whole", {SOURCE: f"http://{address}"}) as containerd:
            reference = f"{SOURCE}/{image.repository}:latest"
            containerd.pull(reference)
            assert containerd.run(reference, "numpy", *NUMPY).split() == ["45"]
