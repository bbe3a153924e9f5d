"""What manifests claim about blobs: sizes, tables of contents, and which layers belong together. Hints, never facts
(docs/architecture.md, "Facts")."""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from registry_proxy.errors import DigestInvalid
from registry_proxy.lazy import layers, soci
from registry_proxy.oci import content
from registry_proxy.oci.content import HintedBlob, Manifest
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.sources.base import BlobPlace
from registry_proxy.tiers.records import Records
from registry_proxy.tiers.schema import Hint, Sibling, Siblings, TocHint

_MOST_BLOBS: Final = 1024
"""Blobs of one manifest that are noted; about the others the upstream is asked. Images have some hundred layers at most, a manifest of
4 MiB has room for forty thousand."""

_MOST_SIBLINGS: Final = 256
"""Layers of one image that are noted as belonging together: with each of them, all are written down."""


class Hints:
    """Notes what the manifests of a repository claim."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def note(self, upstream: SourceHost, repository: Repository, manifest: Manifest) -> None:
        """Record the blobs that a manifest names."""
        blobs = tuple(islice(content.blobs(manifest), _MOST_BLOBS))
        config = blobs[:1] if manifest.config else ()
        layers = tuple(Sibling(str(blob.digest), blob.size) for blob in blobs if blob not in config)
        for blob in blobs:
            key = self._records.digest_key(upstream, repository, blob.digest)
            if self._records.hints.peek(key) != Hint(blob.size):
                await self._records.hints.put(key, Hint(blob.size))
                await self._records.add_place(blob.digest, upstream, repository)
            if len(layers) <= _MOST_SIBLINGS:
                await self._records.siblings.put(key, Siblings(layers))
        for digest, toc in islice(_tocs(manifest), _MOST_BLOBS):
            await self._records.tocs.put(self._records.digest_key(upstream, repository, digest), toc)

    async def places(self, digest: Digest) -> tuple[BlobPlace, ...]:
        """The repositories where a digest was named or found, the newest first."""
        known = await self._records.places.get(str(digest))
        if known is None:
            return ()
        return tuple(BlobPlace(SourceHost(one.upstream), Repository(one.repository), digest) for one in known.places)

    async def siblings(self, place: BlobPlace) -> tuple[HintedBlob, ...]:
        """The other layers of the newest image that named this blob, smallest first."""
        named = await self._records.siblings.get(
            self._records.digest_key(place.upstream, place.repository, place.digest)
        )
        if named is None:
            return ()
        blobs = (HintedBlob(Digest.parse(layer.digest), layer.size) for layer in named.layers)
        return tuple(sorted((blob for blob in blobs if blob.digest != place.digest), key=lambda blob: blob.size))


def _tocs(manifest: Manifest) -> Iterator[tuple[Digest, TocHint]]:
    """What a manifest says of the tables of contents of its layers, or, if it is a SOCI index, of those of another image."""
    for layer, ztoc in soci.ztocs_of(manifest):
        yield layer, TocHint(ztoc=str(ztoc.digest), ztoc_size=ztoc.size)
    for descriptor in manifest.layers:
        found = layers.proving(descriptor.annotations) if descriptor.annotations else {}
        if found:
            try:
                yield Digest.parse(descriptor.digest), TocHint(annotations=found)
            except DigestInvalid:
                continue
