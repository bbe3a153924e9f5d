"""The manifest and config of an image whose layers became eStargz, and the index of such images. Pure.

The copy is an OCI image whatever the original was: Docker's manifest has no annotations, without which no layer is mounted lazily.
All else in the documents stays as it was, unknown fields too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from registry_proxy.errors import ManifestInvalid
from registry_proxy.lazy.convert.values import ConvertedLayer
from registry_proxy.oci.content import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.foreign import Unreadable, decode

SOURCE_DIGEST: Final = "registry-proxy/source.digest"
"""Annotation of a converted layer, manifest or index: the digest of what it is a copy of."""

LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_OCI_NAMES: Final = {
    _DOCKER_CONFIG: _CONFIG,
    DOCKER_MANIFEST: OCI_MANIFEST,
    DOCKER_LIST: OCI_INDEX,
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar": "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
}
_LAYERS: Final = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
    }
)
OF_AN_ATTESTATION: Final = "vnd.docker.reference.digest"
"""Annotation of an index's entry: the manifest that it is about."""

_STALE: Final = ("io.github.containers.zstd-chunked.", "io.containers.zstd-chunked.", "containerd.io/snapshot/stargz/")
"""Annotations that say where things are in the bytes of the original."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RewrittenImage:
    """The two documents of a converted image, as they are to be stored; the manifest names the config by its digest."""

    manifest: bytes
    config: bytes


def is_layer(media_type: str) -> bool:
    """True for a descriptor that names a layer which may be converted: a tar, neither encrypted nor forbidden to distribute."""
    return oci_type(media_type) in _LAYERS


def oci_type(media_type: str) -> str:
    """OCI's name for what Docker calls so."""
    return _OCI_NAMES.get(media_type, media_type)


def rewrite_image(manifest: bytes, config: bytes, layers: Sequence[ConvertedLayer | None]) -> RewrittenImage:
    """The image with these layers in the place of its own, lowest first; None leaves a layer as it is.

    A ``subject`` is left out: it would list the copy among what refers to that subject. Raises ManifestInvalid for what is no
    image (artifacts have other configs) and for a config that does not fit the manifest.
    """
    document, settings = _decoded(manifest), _decoded(config)
    described, diff_ids = _parts(document, settings, len(layers))
    for number, layer in enumerate(layers):
        if layer is not None:
            diff_ids[number] = str(layer.diff_id)
            described[number] = _layer(described[number], layer)
        else:
            described[number] = _typed(described[number])
    new_config = msgspec.json.encode(settings)
    document["config"] = _replaced(document["config"], _CONFIG, new_config)
    return RewrittenImage(_copy(document, OCI_MANIFEST, manifest), new_config)


def rewrite_index(index: bytes, manifests: Mapping[str, bytes]) -> bytes:
    """The index with converted manifests (or indexes) in the place of its own: ``manifests`` by the digest of the original.

    Entries that are not in ``manifests`` stay (other platforms, other artifacts), but attestations about a converted manifest go:
    what they say is true of the original only. Raises ManifestInvalid.
    """
    document = _decoded(index)
    entries = document.get("manifests")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ManifestInvalid("not an image index")
    kept = [entry for entry in entries if _annotations(entry).get(OF_AN_ATTESTATION) not in manifests]
    document["manifests"] = [_entry(entry, manifests.get(str(entry.get("digest")))) for entry in kept]
    return _copy(document, OCI_INDEX, index)


def _parts(document: Document, settings: Document, count: int) -> tuple[list[Document], list[str]]:
    described, config = document.get("layers"), document.get("config")
    if not isinstance(config, dict) or config.get("mediaType") not in {_CONFIG, _DOCKER_CONFIG}:
        raise ManifestInvalid("not the manifest of a container image")
    if not isinstance(described, list) or not all(isinstance(layer, dict) for layer in described):
        raise ManifestInvalid("a manifest without a list of layers")
    rootfs = settings.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not len(diff_ids) == len(described) == count:
        raise ManifestInvalid("the config's diff_ids are not as many as the manifest's layers")
    return described, diff_ids


def _layer(described: Document, layer: ConvertedLayer) -> Document:
    kept = {key: value for key, value in _annotations(described).items() if not key.startswith(_STALE)}
    annotations = {**kept, **layer.annotations, SOURCE_DIGEST: str(described.get("digest"))}
    return {
        "mediaType": LAYER,
        "digest": str(layer.digest),
        "size": layer.size,
        "annotations": annotations,
    }


def _entry(entry: Document, manifest: bytes | None) -> Document:
    if manifest is None:
        return entry
    annotations = _annotations(entry) | {SOURCE_DIGEST: str(entry.get("digest"))}
    media_type = str(_decoded(manifest).get("mediaType", OCI_MANIFEST))
    return _replaced(entry, media_type, manifest) | {"annotations": annotations}


def _replaced(described: Document, media_type: str, body: bytes) -> Document:
    """The descriptor, now of this content; where else the old one was to be had, or the old one itself, is left out."""
    kept = {key: value for key, value in described.items() if key not in {"data", "urls"}}
    return kept | {"mediaType": media_type, "digest": str(Digest.of(body)), "size": len(body)}


def _typed(described: Document) -> Document:
    """The descriptor with OCI's name for its media type."""
    return described | {"mediaType": oci_type(str(described.get("mediaType", "")))}


def _copy(document: Document, media_type: str, original: bytes) -> bytes:
    """The document as a copy of its original: of this type, without a subject, with the original's digest."""
    document.pop("subject", None)
    annotations = _annotations(document) | {SOURCE_DIGEST: str(Digest.of(original))}
    head = {"schemaVersion": 2, "mediaType": media_type}
    return msgspec.json.encode(head | document | head | {"annotations": annotations})


def _annotations(described: Document) -> dict[str, str]:
    found = described.get("annotations")
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ManifestInvalid("annotations that are not texts")
    return found


def _decoded(body: bytes) -> Document:
    try:
        return decode(body, Document)
    except Unreadable as error:
        raise ManifestInvalid(f"not a JSON object: {error}") from error
