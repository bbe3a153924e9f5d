"""Lazy images put together of layers that were made: manifests, configs and indexes, kept where any client finds them.

Putting one together costs nothing but a few look-ups, and always gives the same bytes for the same layers; so nothing is remembered of
an image but its documents, and what is lost of those comes back with the next request for the tag.
"""

import asyncio
import io
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

from registry_proxy.config import Lazy
from registry_proxy.errors import BlobUnknown, ManifestInvalid, ManifestUnknown
from registry_proxy.lazy import soci
from registry_proxy.lazy.convert.image import SOURCE_DIGEST, is_layer, oci_type, rewrite_image, rewrite_index
from registry_proxy.lazy.convert.values import ConvertedLayer
from registry_proxy.lazy.estargz.footer import TOC_DIGEST
from registry_proxy.lazy.soci import GoDescriptor, IndexedImage, ZtocOf
from registry_proxy.lazy.terms import Kind, Terms, wanted_platform
from registry_proxy.lazy.work.job import Job
from registry_proxy.oci.content import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, Manifest, parse_manifest
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Reference, Repository, SourceHost
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.ranges import Part
from registry_proxy.pull.blobs import Blobs
from registry_proxy.pull.manifests import ServedManifest
from registry_proxy.sources.base import BlobPlace
from registry_proxy.tiers.records import Records
from registry_proxy.tiers.schema import Fact, ManifestRecord
from registry_proxy.tiers.shelf import MadeLayer, Shelf

_IMAGES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_GZIP_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_LARGEST_CONFIG: Final = 8 << 20

_MOST_IMAGES: Final = 64
"""Images of one index: for each the upstream is asked."""

_MOST_LAYERS: Final = 512
"""Layers of one image: each is a job. No snapshotter mounts more."""

_GROWTH: Final = 1.2
"""Bytes of a copy for each byte of its original, about."""


@dataclass(frozen=True, slots=True)
class Home:
    """A repository of an upstream, and the terms for it."""

    upstream: SourceHost
    repository: Repository
    terms: Terms

    def place(self, digest: Digest) -> BlobPlace:
        """Where a blob of it lives."""
        return BlobPlace(self.upstream, self.repository, digest)


@dataclass(frozen=True, slots=True)
class Offer:
    """A lazy image that can be served: its topmost manifest, and what was made for it: all manifests, and blobs."""

    digest: Digest
    media_type: str
    body: bytes
    manifests: tuple[Digest, ...]
    blobs: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What has to be made before an image can be offered."""

    jobs: tuple[Job, ...]


class Originals(Protocol):
    """The manifests as upstreams have them."""

    async def get(
        self, upstream: SourceHost, repository: Repository, reference: Reference, *, no_cache: bool = False
    ) -> ServedManifest:
        """The manifest."""

    def at_hand(self, upstream: SourceHost, repository: Repository, reference: Reference) -> ServedManifest | None:
        """The manifest, if that takes no waiting."""

    def good_for(self, upstream: SourceHost, repository: Repository, reference: Reference) -> float:
        """Seconds in which what has just been answered may be answered again without asking."""


@dataclass(frozen=True, slots=True)
class _Image:
    """An image manifest of one platform, and what became of its layers, by their digests."""

    body: bytes
    media_type: str
    manifest: Manifest
    made: Mapping[str, MadeLayer]


class LazyImages:
    """Puts lazy images together, as far as their layers have been made."""

    def __init__(self, originals: Originals, blobs: Blobs, shelf: Shelf, records: Records, settings: Lazy) -> None:
        self._originals = originals
        self._blobs = blobs
        self._shelf = shelf
        self._records = records
        self._settings = settings

    async def offer(self, kind: Kind, home: Home, original: ServedManifest) -> Offer | Unfinished:
        """The lazy form of an image, or what is missing for it.

        Raises ManifestUnknown if there can be none, and what fetching manifests and configs raises.
        """
        images, missing = await self._images(kind, home, original)
        if missing:
            self._check_room(kind, home, images)
            return Unfinished(tuple({job.id: job for job in missing}.values()))
        try:
            if kind is Kind.SOCI:
                return await self._soci(home, original, images)
            return await self._estargz(home, original, images)
        except ManifestInvalid as error:
            raise ManifestUnknown(f"{original.digest} has no form of this kind: {error}") from error

    async def referrer(self, home: Home, original: ServedManifest) -> Offer | Unfinished:
        """The SOCI index (v1) that refers to an image manifest, or what is missing for it; raises ManifestUnknown."""
        image, missing = await self._image(Kind.SOCI, home, original)
        if image is None:
            raise ManifestUnknown(f"{original.digest} is not the manifest of an image")
        if missing:
            return Unfinished(tuple(missing))
        ztocs = _ztocs(image, home.terms)
        if not ztocs:
            raise ManifestUnknown(_why_none(original.digest, [image]))
        index = soci.index_v1(image.body, image.media_type, ztocs)
        blobs = [ztoc.digest for ztoc in ztocs.values()]
        return await self._kept(home, index, OCI_MANIFEST, {}, [*blobs, await self._shelved(soci.EMPTY)])

    async def jobs(self, kind: Kind, home: Home, original: ServedManifest) -> list[Job]:
        """What is still to be made of one image manifest; raises ManifestUnknown if there is no room for it."""
        image, missing = await self._image(kind, home, original)
        if image is not None and missing:
            self._check_room(kind, home, {str(original.digest): image})
        return missing

    async def whole(self, home: Home, offer: Offer) -> bool:
        """True if readers of the repository find all of it that was made here."""
        if not all(self._shelf.whole_at(home.upstream, home.repository, digest) for digest in offer.blobs):
            return False
        return all([await self._has_manifest(home, digest) for digest in offer.manifests])

    async def _has_manifest(self, home: Home, digest: Digest) -> bool:
        fact = await self._records.facts.get(self._records.digest_key(home.upstream, home.repository, digest))
        return fact is not None and await self._records.manifests.get(str(digest)) is not None

    # --- what an image consists of -------------------------------------------------------------------------------------

    async def _images(self, kind: Kind, home: Home, original: ServedManifest) -> tuple[dict[str, _Image], list[Job]]:
        """The image manifests to work on, by digest, and what is to be made of them first."""
        found: dict[str, _Image] = {}
        missing: list[Job] = []
        for one in await self._manifests(home, original):
            image, jobs = await self._image(kind, home, one)
            missing += jobs
            if image is not None:
                found[str(one.digest)] = image
        if not found:
            raise ManifestUnknown(f"{original.digest} holds no image for the platforms that are made lazy")
        return found, missing

    async def _manifests(self, home: Home, original: ServedManifest) -> list[ServedManifest]:
        entries = parse_manifest(original.body).manifests
        if entries is None:
            return [original]
        digests = [Digest.parse(entry.digest) for entry in entries if self._is_wanted(entry)]
        if len(digests) > _MOST_IMAGES:
            raise ManifestUnknown(
                f"{original.digest} names {len(digests)} images, at most {_MOST_IMAGES} are made lazy"
            )
        return [await self._originals.get(home.upstream, home.repository, digest) for digest in digests]

    def _is_wanted(self, entry: Descriptor) -> bool:
        found = entry.platform
        if found is None or entry.media_type not in _IMAGES:
            return False
        return wanted_platform(self._settings, found.os, found.architecture, found.variant)

    async def _image(self, kind: Kind, home: Home, original: ServedManifest) -> tuple[_Image | None, list[Job]]:
        manifest = parse_manifest(original.body)
        if manifest.config is None or oci_type(manifest.config.media_type) != _CONFIG:
            return None, []
        if len(manifest.layers) > _MOST_LAYERS:
            raise ManifestUnknown(f"{original.digest} has {len(manifest.layers)} layers, more than {_MOST_LAYERS}")
        made: dict[str, MadeLayer] = {}
        missing: list[Job] = []
        for layer in manifest.layers:
            if not _is_for(kind, layer, home.terms):
                continue
            job = _job(kind, home, layer)
            found = await self._shelf.layer(job.variant, Digest.parse(layer.digest))
            if found is None:
                missing.append(job)
            else:
                await self._prove(home, Digest.parse(layer.digest))
                made[layer.digest] = found
        return _Image(original.body, original.media_type, manifest, made), missing

    def _check_room(self, kind: Kind, home: Home, images: Mapping[str, _Image]) -> None:
        """Raises ManifestUnknown for an image that would push its own copies out, one by the other, for ever."""
        sizes = {
            layer.digest: _size(layer, image.made.get(layer.digest))
            for image in images.values()
            for layer in image.manifest.layers
            if kind is Kind.ESTARGZ and _is_for(kind, layer, home.terms)
        }
        needed = sum(sizes.values())
        if needed > self._shelf.limit:
            raise ManifestUnknown(
                f"the copies of {', '.join(images)} would have some {needed} bytes: lazy.limit is {self._shelf.limit}"
            )

    async def _prove(self, home: Home, layer: Digest) -> None:
        """What was made of a layer is as private as the layer: it is for repositories that have it, not for all that name it."""
        try:
            await self._blobs.open(home.place(layer), certain=True)
        except BlobUnknown as error:
            raise ManifestUnknown(f"{home.repository} names a layer that it does not have: {layer}") from error

    # --- documents -----------------------------------------------------------------------------------------------------

    async def _soci(self, home: Home, original: ServedManifest, images: Mapping[str, _Image]) -> Offer:
        ztocs = {digest: _ztocs(image, home.terms) for digest, image in images.items()}
        indexed = {digest: soci.image_v2(images[digest].body, found) for digest, found in ztocs.items() if found}
        if not indexed:
            raise ManifestUnknown(_why_none(original.digest, list(images.values())))
        body = soci.list_v2(await self._entries(home, original, images), indexed, _annotations(original))
        blobs = [ztoc.digest for digest in indexed for ztoc in ztocs[digest].values()]
        blobs.append(await self._shelved(soci.EMPTY))
        return await self._kept(home, body, OCI_INDEX, _documents(indexed), blobs)

    async def _entries(
        self, home: Home, original: ServedManifest, images: Mapping[str, _Image]
    ) -> Sequence[GoDescriptor]:
        if parse_manifest(original.body).is_index:
            return soci.entries_of(original.body)
        config = soci.platform_of(await self._config(home, images[str(original.digest)].manifest))
        size = len(original.body)
        return [GoDescriptor(original.media_type, str(original.digest), size, platform=config)]

    async def _estargz(self, home: Home, original: ServedManifest, images: Mapping[str, _Image]) -> Offer:
        rewritten: dict[str, bytes] = {}
        blobs: list[Digest] = []
        for digest, image in images.items():
            layers = [_converted(image.made.get(layer.digest)) for layer in image.manifest.layers]
            if any(layers):
                made = rewrite_image(image.body, await self._config(home, image.manifest), layers)
                rewritten[digest] = made.manifest
                blobs += [layer.digest for layer in layers if layer is not None]
                blobs.append(await self._shelved(made.config))
        if not rewritten:
            raise ManifestUnknown(_why_none(original.digest, list(images.values())))
        if not parse_manifest(original.body).is_index:
            return await self._kept(home, rewritten[str(original.digest)], OCI_MANIFEST, {}, blobs)
        body = rewrite_index(original.body, rewritten)
        return await self._kept(home, body, OCI_INDEX, dict.fromkeys(rewritten.values(), OCI_MANIFEST), blobs)

    async def _config(self, home: Home, manifest: Manifest) -> bytes:
        """The image's config; raises ManifestInvalid, or what reading a blob raises."""
        assert manifest.config is not None  # noqa: S101 - an image has one
        blob = await self._blobs.open(home.place(Digest.parse(manifest.config.digest)))
        if not 0 < blob.size <= _LARGEST_CONFIG:
            raise ManifestInvalid(f"a config of {blob.size} bytes")
        body = bytearray()
        async with blob.read([Part(Span(0, blob.size))]) as reader, aclosing(reader.pieces(0)) as pieces:
            async for piece in pieces:
                body += await asyncio.to_thread(piece.read)
        return bytes(body)

    # --- keeping -------------------------------------------------------------------------------------------------------

    async def _shelved(self, data: bytes) -> Digest:
        """A small blob, put where layers are."""
        digest = Digest.of(data)
        await self._shelf.put(io.BytesIO(data), len(data), digest)
        return digest

    async def _kept(
        self, home: Home, body: bytes, media_type: str, others: Mapping[bytes, str], blobs: Sequence[Digest]
    ) -> Offer:
        """The image as an offer, all its documents where manifests are looked for, and its blobs open to the repository's readers."""
        for document, kind in {**others, body: media_type}.items():
            await self._keep_manifest(home, document, kind)
        for digest in blobs:
            await self._shelf.admit(home.upstream, home.repository, digest)
        manifests = tuple(Digest.of(document) for document in {**others, body: media_type})
        return Offer(Digest.of(body), media_type, body, manifests, tuple(blobs))

    async def _keep_manifest(self, home: Home, body: bytes, media_type: str) -> None:
        digest = Digest.of(body)
        record = ManifestRecord(body=body, media_type=media_type, digest=str(digest))
        await self._records.manifests.put(str(digest), record)
        await self._records.facts.put(self._records.digest_key(home.upstream, home.repository, digest), Fact(len(body)))


def _is_for(kind: Kind, layer: Descriptor, terms: Terms) -> bool:
    if kind is Kind.SOCI:
        is_a_copy = SOURCE_DIGEST in layer.annotations
        return oci_type(layer.media_type) == _GZIP_LAYER and layer.size >= terms.smallest_layer and not is_a_copy
    return is_layer(layer.media_type) and TOC_DIGEST not in layer.annotations


def _size(layer: Descriptor, made: MadeLayer | None) -> int:
    return int(layer.size * _GROWTH) if made is None else made.size


def _job(kind: Kind, home: Home, layer: Descriptor) -> Job:
    span_size = int(home.terms.span_size) if kind is Kind.SOCI else 0
    return Job(kind, home.upstream, home.repository, layer.digest, layer.size, layer.media_type, span_size)


def _ztocs(image: _Image, terms: Terms) -> dict[str, ZtocOf]:
    return {
        layer: ZtocOf(Digest.parse(made.digest), made.size, terms.span_size)
        for layer, made in image.made.items()
        if not made.refused
    }


def _converted(made: MadeLayer | None) -> ConvertedLayer | None:
    if made is None or made.refused:
        return None
    details = made.details
    return ConvertedLayer(
        digest=Digest.parse(made.digest),
        size=made.size,
        diff_id=Digest.parse(str(details["diff_id"])),
        toc_digest=Digest.parse(str(details["toc_digest"])),
        uncompressed_size=int(details["uncompressed_size"]),
        files=int(details["files"]),
    )


def _annotations(original: ServedManifest) -> dict[str, str]:
    return soci.annotations_of(original.body) if parse_manifest(original.body).is_index else {}


def _documents(indexed: Mapping[str, IndexedImage]) -> dict[bytes, str]:
    return {body: OCI_MANIFEST for image in indexed.values() for body in (image.manifest, image.index)}


def _why_none(digest: Digest, images: Sequence[_Image]) -> str:
    refused = next((made.refused for image in images for made in image.made.values() if made.refused), None)
    return (
        f"no layer of {digest} can be made lazy: {refused or 'each is too small, of another format, or lazy already'}"
    )
