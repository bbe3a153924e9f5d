"""An image behind an instance, file by file: its layers, each with an index that it carries, or that somebody made of it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from registry_proxy.cli.http import Instance, InstanceRefused
from registry_proxy.cli.platforms import Wanted
from registry_proxy.cli.warming import NothingForPlatform, image_path, manifests_of
from registry_proxy.errors import RegistryProxyError
from registry_proxy.oci.content import MAX_MANIFEST, Descriptor, parse_manifest
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import ImageName
from registry_proxy.plan.chunks import Span

if TYPE_CHECKING:  # the formats are imported when a verb runs
    from registry_proxy.lazy.files import LayerIndex
    from registry_proxy.lazy.ztoc.ztoc import Ztoc

_LARGEST_ZTOC: Final = 512 << 20


class LayerUnreadable(RegistryProxyError):
    """A layer cannot be looked into; the text says which one and why."""


@dataclass(frozen=True, slots=True)
class RemoteLayer:
    """A layer's index, and what reads the layer's bytes by ranged requests."""

    index: "LayerIndex"
    read: Callable[[Span], bytes]


@dataclass(frozen=True)
class RemoteImage:
    """The image of one platform. ``digest``: of its manifest; ``layers``: from the lowest to the highest; ``ztocs``: a directory
    of zTOCs for layers that carry no index."""

    instance: Instance
    image: ImageName
    digest: Digest
    layers: tuple[Descriptor, ...]
    ztocs: Path | None

    @classmethod
    def find(cls, instance: Instance, image: ImageName, wanted: Wanted, ztocs: Path | None) -> "RemoteImage":
        """The image for this platform; raises NothingForPlatform, and what ``Instance`` raises."""
        for body, manifest in manifests_of(instance, image, [wanted]):
            if not manifest.is_index:
                if manifest.config is None:
                    raise InstanceRefused(f"{image} is not an image")
                return cls(instance, image, Digest.of(body), manifest.layers, ztocs)
        raise NothingForPlatform(f"{image} has nothing for the platform asked for (see --platform)")

    def open(self, layer: Descriptor) -> RemoteLayer:
        """One of the layers; raises LayerUnreadable."""
        from registry_proxy.lazy.failures import IndexInvalid, LayerRefused
        from registry_proxy.lazy.layers import own_index

        def read(span: Span) -> bytes:
            return self._read(layer, span)

        try:
            own = own_index(layer.size, layer.annotations, read)
            return RemoteLayer(own or self._made(layer), read)
        except (IndexInvalid, LayerRefused) as error:
            raise LayerUnreadable(f"layer {layer.digest}: {error}") from error

    def _read(self, layer: Descriptor, span: Span) -> bytes:
        if not len(span):
            return b""
        wanted = {"Range": f"bytes={span.start}-{span.stop - 1}"}
        return self.instance.get(image_path(self.image, "blobs", layer.digest), wanted, len(span))

    def _made(self, layer: Descriptor) -> "LayerIndex":
        """The index by a zTOC: from the directory, from the instance, else made of the whole layer now."""
        from registry_proxy.lazy.ztoc.index import ZtocIndex
        from registry_proxy.lazy.ztoc.ztoc import parse

        digest = Digest.parse(layer.digest)
        stored = self.ztocs / f"{digest.hex}.ztoc" if self.ztocs else None
        if stored is not None and stored.is_file():
            return _fitting(ZtocIndex(parse(stored.read_bytes())), layer, str(stored))
        if (offered := self._offered.get(layer.digest)) is not None:
            body = self.instance.get(image_path(self.image, "blobs", str(offered)), {}, _LARGEST_ZTOC)
            if offered.matches(body):
                return _fitting(ZtocIndex(parse(body)), layer, str(offered))
        path = image_path(self.image, "blobs", layer.digest)
        came, ztoc = indexed(lambda receive: self.instance.drain(path, {}, receive, layer.size), digest)
        if came != digest:
            raise LayerUnreadable(f"layer {digest} came with other contents")
        return ZtocIndex(ztoc)

    @cached_property
    def _offered(self) -> Mapping[str, Digest]:
        """The zTOCs that the instance has of layers, by the layers' digests: only those that are ready, none if it cannot say."""
        from registry_proxy.lazy.soci import INDEX_V1, ztocs_of

        try:
            listed = self.instance.ask(image_path(self.image, "referrers", str(self.digest)), {}, MAX_MANIFEST)
            entries: list[dict[str, Any]] = json.loads(listed)["manifests"]
            index = next(entry["digest"] for entry in entries if entry.get("artifactType") == INDEX_V1)
            manifest = parse_manifest(self.instance.get(image_path(self.image, "manifests", index), {}, MAX_MANIFEST))
        except (RegistryProxyError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
            return {}
        return {str(layer): ztoc.digest for layer, ztoc in ztocs_of(manifest)}


def _fitting(index: "LayerIndex", layer: Descriptor, name: str) -> "LayerIndex":
    if index.size != layer.size:
        raise LayerUnreadable(f"{name} is the zTOC of another layer")
    return index


def indexed(source: Callable[[Callable[[bytes], object]], object], like: Digest | None = None) -> "tuple[Digest, Ztoc]":
    """The digest and zTOC of the layer that ``source`` pours out; the digest is of ``like``'s algorithm. Raises LayerRefused."""
    from registry_proxy.lazy.ztoc.builder import ZtocBuilder

    algorithm = like.algorithm if like else "sha256"
    running = Digest.of(b"", algorithm).hasher()
    with ZtocBuilder() as builder:

        def receive(block: bytes) -> None:
            running.update(block)
            builder.feed(block)

        source(receive)
        return Digest(algorithm, running.hexdigest()), builder.finish()
