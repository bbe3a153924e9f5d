"""The documents of SOCI: index manifests of zTOCs, and images that point at them (SOCI docs: soci-index-manifest-v2.md). Pure.

The client decodes an index and encodes it again with Go's JSON before it looks at its digest, so every document here is what Go would
write: compact, fields in the order of Go's structs, ``<``, ``>`` and ``&`` escaped. Fields that Go's structs do not have are dropped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from registry_proxy.errors import DigestInvalid, ManifestInvalid
from registry_proxy.lazy.convert.image import OF_AN_ATTESTATION, oci_type
from registry_proxy.lazy.ztoc.builder import TOOL
from registry_proxy.lazy.ztoc.ztoc import MEDIA_TYPE
from registry_proxy.oci.content import OCI_INDEX, OCI_MANIFEST, HintedBlob, Manifest
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.foreign import Unreadable, decode

T = TypeVar("T")

INDEX_V1: Final = "application/vnd.amazon.soci.index.v1+json"
INDEX_V2: Final = "application/vnd.amazon.soci.index.v2+json"
EMPTY: Final = b"{}"
"""The config of every SOCI index."""

INDEX_DIGEST: Final = "com.amazon.soci.index-digest"
_IMAGE_DIGEST: Final = "com.amazon.soci.image-manifest-digest"
LAYER_DIGEST: Final = "com.amazon.soci.image-layer-digest"
_LAYER_TYPE: Final = "com.amazon.soci.image-layer-mediaType"
_SPAN_SIZE: Final = "com.amazon.soci.span-size"
_BUILD_TOOL: Final = "com.amazon.soci.build-tool-identifier"


class _Struct(msgspec.Struct, rename="camel", omit_defaults=True):
    """One of Go's structs; what is empty is left out."""


class GoPlatform(_Struct):
    """``Platform`` of Go's image-spec."""

    architecture: str
    os: str
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    variant: str = ""


class GoDescriptor(_Struct):
    """``Descriptor`` of Go's image-spec."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    data: str = ""
    platform: GoPlatform | None = None
    artifact_type: str = ""


class GoManifest(_Struct):
    """``Manifest`` of Go's image-spec."""

    schema_version: int
    config: GoDescriptor
    layers: tuple[GoDescriptor, ...]
    media_type: str = ""
    artifact_type: str = ""
    subject: GoDescriptor | None = None
    annotations: dict[str, str] = {}


class GoIndex(_Struct):
    """``Index`` of Go's image-spec."""

    schema_version: int
    manifests: tuple[GoDescriptor, ...]
    media_type: str = ""
    artifact_type: str = ""
    subject: GoDescriptor | None = None
    annotations: dict[str, str] = {}


_ORDER: Final = (
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "subject",
    "annotations",
)


@dataclass(frozen=True, slots=True)
class ZtocOf:
    """The zTOC of one layer: its digest, bytes, and the uncompressed bytes of its spans."""

    digest: Digest
    size: int
    span_size: int


@dataclass(frozen=True, slots=True)
class IndexedImage:
    """An image that points at its SOCI index: both documents."""

    manifest: bytes
    index: bytes


def index_v1(manifest: bytes, media_type: str, ztocs: Mapping[str, ZtocOf]) -> bytes:
    """The index that refers to an image as it is (``subject``). ``ztocs``: by the digest of the layer; raises ManifestInvalid."""
    subject = GoDescriptor(media_type, str(Digest.of(manifest)), len(manifest))
    return _index(INDEX_V1, _manifest(manifest).layers, ztocs, subject)


def image_v2(manifest: bytes, ztocs: Mapping[str, ZtocOf]) -> IndexedImage:
    """The image with the annotation that names its index. ``ztocs``: by the digest of the layer; raises ManifestInvalid."""
    document = _manifest(manifest)
    document.media_type = OCI_MANIFEST
    document.config.media_type = oci_type(document.config.media_type)
    for layer in document.layers:
        layer.media_type = oci_type(layer.media_type)
    index = _index(INDEX_V2, document.layers, ztocs, None)
    document.annotations = document.annotations | {INDEX_DIGEST: str(Digest.of(index))}
    document.subject = None  # or the copy would be listed among what refers to that subject
    return IndexedImage(encoded(document), index)


def list_v2(entries: Sequence[GoDescriptor], images: Mapping[str, IndexedImage], annotations: dict[str, str]) -> bytes:
    """The image index of a v2 image. ``entries``: of the original's index (or the one manifest); ``images``: by original digest.

    Entries without an indexed image stay; what is about one that has become another goes: attestations, and the SOCI index that an
    image had before.
    """
    kept = [entry for entry in entries if images.keys().isdisjoint(_about(entry))]
    changed = [(_entry(entry, images[entry.digest]), entry) for entry in kept if entry.digest in images]
    by_digest = {entry.digest: new for new, entry in changed}
    listed = [by_digest.get(entry.digest, entry) for entry in kept]
    indexes = [_index_entry(new, images[entry.digest]) for new, entry in changed]
    return encoded(GoIndex(2, (*listed, *indexes), OCI_INDEX, annotations=annotations))


def ztocs_of(manifest: Manifest) -> Iterator[tuple[Digest, HintedBlob]]:
    """Which zTOC a SOCI index, of either version, names for which layer; none of any other manifest."""
    kind = manifest.artifact_type or (manifest.config.media_type if manifest.config else "")
    if kind not in {INDEX_V1, INDEX_V2}:
        return
    for named in manifest.layers:
        try:
            layer, ztoc = Digest.parse(named.annotations.get(LAYER_DIGEST, "")), Digest.parse(named.digest)
        except DigestInvalid:
            continue
        if named.size > 0:
            yield layer, HintedBlob(ztoc, named.size)


def entries_of(index: bytes) -> tuple[GoDescriptor, ...]:
    """The entries of an image index; raises ManifestInvalid."""
    return _decoded(index, GoIndex).manifests


def platform_of(config: bytes) -> GoPlatform:
    """The platform that an image's config names; raises ManifestInvalid."""
    return _decoded(config, GoPlatform)


def annotations_of(document: bytes) -> dict[str, str]:
    """The annotations of an image index; raises ManifestInvalid."""
    return _decoded(document, GoIndex).annotations


def referrer(index: bytes) -> dict[str, Any]:
    """The descriptor of a v1 index for an answer that lists referrers (distribution-spec, "Listing Referrers")."""
    return {
        "mediaType": OCI_MANIFEST,
        "digest": str(Digest.of(index)),
        "size": len(index),
        "annotations": {_BUILD_TOOL: TOOL},
        "artifactType": INDEX_V1,
    }


def encoded(document: msgspec.Struct) -> bytes:
    """A document as Go writes it."""
    fields = msgspec.to_builtins(document)
    ordered = {name: fields[name] for name in _ORDER if name in fields}
    for described in (ordered, ordered.get("config", {}), ordered.get("subject", {}), *_listed(ordered)):
        if "annotations" in described:
            described["annotations"] = dict(sorted(described["annotations"].items()))
    text = msgspec.json.encode(ordered)
    for plain, escaped in ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026")):
        text = text.replace(plain, escaped)
    return text.replace("\u2028".encode(), b"\\u2028").replace("\u2029".encode(), b"\\u2029")


def _listed(fields: dict[str, Any]) -> list[dict[str, Any]]:
    return [*fields.get("layers", ()), *fields.get("manifests", ())]


def _index(
    kind: str, layers: Sequence[GoDescriptor], ztocs: Mapping[str, ZtocOf], subject: GoDescriptor | None
) -> bytes:
    config = GoDescriptor(kind, str(Digest.of(EMPTY)), len(EMPTY))
    described = tuple(_ztoc(layer, ztocs[layer.digest]) for layer in layers if layer.digest in ztocs)
    document = GoManifest(2, config, described, OCI_MANIFEST, subject=subject, annotations={_BUILD_TOOL: TOOL})
    return encoded(document)


def _ztoc(layer: GoDescriptor, ztoc: ZtocOf) -> GoDescriptor:
    annotations = {LAYER_DIGEST: layer.digest, _LAYER_TYPE: layer.media_type, _SPAN_SIZE: str(ztoc.span_size)}
    return GoDescriptor(MEDIA_TYPE, str(ztoc.digest), ztoc.size, annotations=annotations)


def _about(entry: GoDescriptor) -> set[str]:
    """Digests of the images that an entry says something about."""
    return {entry.annotations.get(name, "") for name in (OF_AN_ATTESTATION, _IMAGE_DIGEST)}


def _entry(entry: GoDescriptor, image: IndexedImage) -> GoDescriptor:
    annotations = entry.annotations | {INDEX_DIGEST: str(Digest.of(image.index))}
    return msgspec.structs.replace(
        entry,
        media_type=OCI_MANIFEST,
        digest=str(Digest.of(image.manifest)),
        size=len(image.manifest),
        annotations=annotations,
    )


def _index_entry(entry: GoDescriptor, image: IndexedImage) -> GoDescriptor:
    return GoDescriptor(
        OCI_MANIFEST,
        str(Digest.of(image.index)),
        len(image.index),
        annotations={_IMAGE_DIGEST: entry.digest},
        platform=entry.platform,
        artifact_type=INDEX_V2,
    )


def _manifest(body: bytes) -> GoManifest:
    return _decoded(body, GoManifest)


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return decode(body, kind)
    except Unreadable as error:
        raise ManifestInvalid(f"not a manifest that can be indexed: {error}") from error
