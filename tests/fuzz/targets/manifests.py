"""JSON of an upstream: manifests, indexes, and what they hint at."""

import contextlib

import msgspec

from registry_proxy.errors import ManifestInvalid
from registry_proxy.oci import content
from registry_proxy.oci.digest import Digest
from registry_proxy.tiers.schema import Hint


def run(data: bytes) -> None:
    """A manifest is read or refused, and what it hints at can be recorded."""
    with contextlib.suppress(ManifestInvalid):
        manifest = content.parse_manifest(data)
        assert manifest.is_index in (True, False)
        for blob in content.blobs(manifest):
            assert isinstance(blob.digest, Digest)
            assert blob.size >= 0
            msgspec.msgpack.encode(Hint(blob.size))
