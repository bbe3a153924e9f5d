"""Descriptors, manifests, indexes and their media types (image-spec; Docker image manifest v2, schema 2).

Manifests are kept and sent as the bytes received; what is parsed here only guides the proxy, so unknown fields are ignored.
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from registry_proxy.errors import DigestInvalid, ManifestInvalid
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.foreign import Unreadable, decode

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"

ACCEPT: Final = ", ".join(
    (
        OCI_INDEX,
        OCI_MANIFEST,
        DOCKER_LIST,
        DOCKER_MANIFEST,
        "application/vnd.oci.artifact.manifest.v1+json",
        "*/*;q=0.5",
    )
)
"""What upstream is always asked for: everything, so that one answer is right for every client."""

MAX_MANIFEST: Final = 4 << 20
"""Bytes: what the distribution spec obliges registries to accept, and where clients stop reading."""


_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}\Z")
_BEYOND: Final = 1 << 63
"""Bytes that nothing has: a size from here on is nonsense."""


class Platform(msgspec.Struct, frozen=True):
    """Where an image runs (image-spec, "Image index property descriptions")."""

    architecture: str = ""
    os: str = ""
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A claim about content: its digest, size in bytes and media type."""

    digest: str
    size: int
    media_type: str = ""
    annotations: dict[str, str] = {}
    platform: Platform | None = None
    artifact_type: str | None = None


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """An image manifest, image index, Docker manifest or Docker list: whichever fields it has."""

    media_type: str = ""
    artifact_type: str | None = None
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] | None = None
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}

    @property
    def is_index(self) -> bool:
        """True for an image index or a Docker manifest list."""
        return self.manifests is not None


class HintedBlob(msgspec.Struct, frozen=True):
    """A blob that a manifest claims: a hint, never a fact."""

    digest: Digest
    size: int


def is_possible(digest: Digest, size: int) -> bool:
    """False for a size that nothing has, and for one of 0 unless the digest is that of nothing."""
    return 0 <= size < _BEYOND and (size == 0) is digest.is_empty


def media_type(text: str) -> str:
    """A media type without parameters (RFC 6838 §4.2); empty for anything else, which must not get into a header."""
    return text if _MEDIA_TYPE.match(text) else ""


def parse_manifest(body: bytes) -> Manifest:
    """The parts of a manifest that guide the proxy; raises ManifestInvalid if it is not a JSON object of that shape."""
    try:
        return decode(body, Manifest)
    except Unreadable as error:
        raise ManifestInvalid(f"not a manifest: {error}") from error


def blobs(manifest: Manifest) -> Iterator[HintedBlob]:
    """The config and layers that a manifest names, in its order; entries with a malformed digest or an impossible size are left out."""
    for descriptor in (*((manifest.config,) if manifest.config else ()), *manifest.layers):
        try:
            digest = Digest.parse(descriptor.digest)
        except DigestInvalid:
            continue
        if is_possible(digest, descriptor.size):
            yield HintedBlob(digest, descriptor.size)
