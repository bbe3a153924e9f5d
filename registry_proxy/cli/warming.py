"""Pulling images through an instance so that it keeps them: manifests, configs and layers, bodies thrown away as they come."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from registry_proxy.cli.http import Instance, InstanceRefused
from registry_proxy.cli.platforms import Wanted, choose
from registry_proxy.errors import RegistryProxyError
from registry_proxy.oci.content import ACCEPT, MAX_MANIFEST, HintedBlob, Manifest, blobs, parse_manifest
from registry_proxy.oci.names import ImageName

_DEEPEST: Final = 4
"""Indexes may name indexes; nobody nests them deeper than two."""

_AT_ONCE: Final = 4
"""Layers pulled at the same time."""


class NothingForPlatform(RegistryProxyError):
    """The index has no manifest for any platform that is wanted."""


@dataclass(frozen=True, slots=True)
class Warmed:
    """What became of one image. ``bytes``: of all bodies that came; ``error``: None if the image is complete."""

    image: str
    manifests: int
    blobs: int
    bytes: int
    seconds: float
    error: str | None = None


class Watcher:
    """Is told about progress, from several threads; this one does not care."""

    def image(self, name: str) -> None:
        """An image begins."""

    def expect(self, name: str, count: int) -> None:
        """So many bytes of layers are to come."""

    def advance(self, name: str, count: int) -> None:
        """So many bytes have come."""


def warm_image(instance: Instance, image: ImageName, wanted: Sequence[Wanted], watcher: Watcher) -> Warmed:
    """Pull an image; an upstream's or the instance's failure is told in the result."""
    begin, name = time.monotonic(), str(image)
    watcher.image(name)
    manifests = layers = size = 0
    try:
        found: dict[str, HintedBlob] = {}
        for body, manifest in manifests_of(instance, image, wanted):
            manifests, size = manifests + 1, size + len(body)
            found.update((str(blob.digest), blob) for blob in blobs(manifest))
        watcher.expect(name, sum(blob.size for blob in found.values()))
        for count in _pull(instance, image, tuple(found.values()), lambda block: watcher.advance(name, len(block))):
            layers, size = layers + 1, size + count
    except RegistryProxyError as error:
        return Warmed(name, manifests, layers, size, time.monotonic() - begin, str(error))
    return Warmed(name, manifests, layers, size, time.monotonic() - begin)


def manifests_of(instance: Instance, image: ImageName, wanted: Sequence[Wanted]) -> Iterator[tuple[bytes, Manifest]]:
    """The manifest of an image and, of an index, those of the wanted platforms; an index comes before what it names."""
    return _manifests(instance, image, str(image.reference), wanted, _DEEPEST)


def _manifests(
    instance: Instance, image: ImageName, reference: str, wanted: Sequence[Wanted], depth: int
) -> Iterator[tuple[bytes, Manifest]]:
    if depth == 0:
        raise InstanceRefused(f"{image}: indexes are nested too deeply")
    body = instance.get(image_path(image, "manifests", reference), {"Accept": ACCEPT}, MAX_MANIFEST)
    manifest = parse_manifest(body)
    yield body, manifest
    if manifest.manifests is None:
        return
    chosen = choose(manifest.manifests, wanted)
    if not chosen:
        raise NothingForPlatform(f"{image} has nothing for the platform asked for (see --platform)")
    for descriptor in chosen:
        yield from _manifests(instance, image, descriptor.digest, wanted, depth - 1)


def _pull(
    instance: Instance, image: ImageName, wanted: Sequence[HintedBlob], receive: Callable[[bytes], object]
) -> Iterator[int]:
    """The sizes of the blobs as they are complete. The first failure ends them all."""

    def pull(blob: HintedBlob) -> int:
        count = instance.drain(image_path(image, "blobs", str(blob.digest)), {}, receive)
        if count != blob.size:
            raise InstanceRefused(f"{blob.digest} has {count} bytes where the manifest says {blob.size}")
        return count

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="warm") as pool:
        try:
            yield from pool.map(pull, wanted)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def image_path(image: ImageName, kind: str, reference: str) -> str:
    """The path of a manifest or blob of an image; ``kind``: ``manifests`` or ``blobs``."""
    return f"/v2/{image.repository}/{kind}/{reference}?ns={quote(image.host)}"
