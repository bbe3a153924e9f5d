"""JSON of an upstream: manifests, indexes, what they call themselves, and what they hint at."""

import contextlib

import msgspec

from registry_proxy.errors import ManifestInvalid
from registry_proxy.oci import content
from registry_proxy.oci.digest import Digest
from registry_proxy.tiers.schema import Hint


def run(data: bytes) -> None:
    """A manifest is read or refused, what it hints at can be recorded, and its media type can stand in a header."""
    with contextlib.suppress(ManifestInvalid):
        manifest = content.parse_manifest(data)
        assert manifest.is_index in (True, False)
        assert content.media_type(manifest.media_type).isprintable()
        for blob in content.blobs(manifest):
            assert isinstance(blob.digest, Digest)
            assert blob.size >= 0
            msgspec.msgpack.encode(Hint(blob.size))
