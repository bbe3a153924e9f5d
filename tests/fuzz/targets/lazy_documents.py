"""Manifests and configs on their way into lazy forms: SOCI indexes, and the documents of eStargz copies. Two lines: manifest, config."""

import contextlib

from registry_proxy.errors import ManifestInvalid
from registry_proxy.lazy import soci
from registry_proxy.lazy.convert.image import rewrite_image, rewrite_index
from registry_proxy.lazy.convert.values import ConvertedLayer
from registry_proxy.lazy.failures import IndexInvalid
from registry_proxy.lazy.layers import proving, toc
from registry_proxy.lazy.soci import ZtocOf
from registry_proxy.oci import content
from registry_proxy.oci.digest import Digest

DIGEST = Digest.of(b"made")
COPY = ConvertedLayer(DIGEST, 10, DIGEST, DIGEST, 20, 1)
ZTOC = ZtocOf(DIGEST, 5, 4 << 20)


def run(data: bytes) -> None:
    """Each document is made or refused, and what is made can be read again."""
    first, _, second = data.partition(b"\n")
    with contextlib.suppress(ManifestInvalid):
        manifest = content.parse_manifest(first)
        layers = [layer.digest for layer in manifest.layers]
        assert all(ztoc.size > 0 for _, ztoc in soci.ztocs_of(manifest))
        for layer in manifest.layers:
            with contextlib.suppress(IndexInvalid):
                toc(layer.size, proving(layer.annotations), second)
        for count in {0, len(layers)}:
            with contextlib.suppress(ManifestInvalid):
                content.parse_manifest(rewrite_image(first, second, [COPY] * count).manifest)
        ztocs = dict.fromkeys(layers, ZTOC)
        with contextlib.suppress(ManifestInvalid):
            content.parse_manifest(soci.index_v1(first, content.OCI_MANIFEST, ztocs))
        with contextlib.suppress(ManifestInvalid):
            image = soci.image_v2(first, ztocs)
            content.parse_manifest(image.manifest)
            content.parse_manifest(image.index)
    with contextlib.suppress(ManifestInvalid):
        soci.platform_of(second)
    with contextlib.suppress(ManifestInvalid):
        _index(first)


def _index(index: bytes) -> None:
    named = [entry.digest for entry in soci.entries_of(index)]
    with contextlib.suppress(ManifestInvalid):
        content.parse_manifest(rewrite_index(index, dict.fromkeys(named, b"{}")))
    images = dict.fromkeys(named, soci.IndexedImage(b"{}", b"{}"))
    content.parse_manifest(soci.list_v2(soci.entries_of(index), images, soci.annotations_of(index)))
