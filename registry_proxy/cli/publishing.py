"""Publishing images from an instance into a tree: blobs first, then manifests, tags last, so that a tree never names what it lacks."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import urlencode

import msgspec

from registry_proxy.cli.http import Instance, InstanceRefused
from registry_proxy.cli.platforms import Wanted
from registry_proxy.cli.warming import Watcher, image_path, manifests_of
from registry_proxy.errors import BadRequest, ManifestUnknown, RegistryProxyError
from registry_proxy.export.tree import BlobWriter, Tree
from registry_proxy.export.wishlist import Pattern, Wish
from registry_proxy.oci.content import HintedBlob, blobs
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.foreign import Unreadable, decode
from registry_proxy.oci.names import ImageName, reference
from registry_proxy.plan.chunk_objects import NAMESPACE, REPOSITORY, ChunkName

_AT_ONCE: Final = 4
"""Layers written at the same time."""

_TRIES: Final = 10
"""Rounds in which an instance may say that a chunk is not there yet; each lasts some seconds."""

_UNKNOWN, _BUSY = 404, 429

_PAGE: Final = 1000
_LIMIT: Final = 64 << 20
"""Bytes of an answer that is not a blob."""


class NotPublic(RegistryProxyError):
    """An image that not everybody may pull: it must not go to where everybody can read it."""


@dataclass(frozen=True, slots=True)
class Published:
    """What became of one image. ``blobs`` and ``manifests``: newly written; ``present``: blobs that had been published before; ``bytes``: of
    the new blobs; ``error``: None if the image is complete."""

    image: str
    manifests: int = 0
    blobs: int = 0
    present: int = 0
    bytes: int = 0
    seconds: float = 0.0
    error: str | None = None


def publish_image(
    instance: Instance, image: ImageName, wanted: Sequence[Wanted], tree: Tree, chunk_size: int, watcher: Watcher
) -> Published:
    """Publish an image; a failure is told in the result. ``chunk_size``: the instance's."""
    begin, name = time.monotonic(), str(image)
    watcher.image(name)
    new: tuple[HintedBlob, ...] = ()
    written, present, size, names = 0, 0, 0, 0
    error = None
    try:
        found = list(manifests_of(instance, image, wanted))
        named = {str(blob.digest): blob for _, manifest in found for blob in blobs(manifest)}
        new = tuple(blob for blob in named.values() if not tree.has(blob))
        present = len(named) - len(new)
        watcher.expect(name, sum(blob.size for blob in new))
        for blob in _write(instance, image, new, tree, chunk_size, watcher):
            written, size = written + 1, size + blob.size
        for body, _ in reversed(found):
            names += tree.manifest(image.host, image.repository, body)
        if not isinstance(image.reference, Digest):
            tree.tag(image.host, image.repository, image.reference, Digest.of(found[0][0]))
    except RegistryProxyError as trouble:
        error = str(trouble)
    return Published(name, names, written, present, size, time.monotonic() - begin, error)


def _write(
    instance: Instance,
    image: ImageName,
    wanted: Sequence[HintedBlob],
    tree: Tree,
    chunk_size: int,
    watcher: Watcher,
) -> Iterator[HintedBlob]:
    """The blobs as they are published. All of them are known to be public before the first one is written."""

    def check(blob: HintedBlob) -> None:
        _check_public(instance, image, blob, chunk_size)

    def receive(writer: BlobWriter, block: bytes) -> None:
        writer.write(block)
        watcher.advance(str(image), len(block))

    def write(blob: HintedBlob) -> HintedBlob:
        with tree.blob(blob) as writer:
            instance.drain(image_path(image, "blobs", str(blob.digest)), {}, partial(receive, writer))
            writer.commit()
        return blob

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="publish") as pool:
        try:
            list(pool.map(check, wanted))
            yield from pool.map(write, wanted)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _check_public(instance: Instance, image: ImageName, blob: HintedBlob, chunk_size: int) -> None:
    """Raises NotPublic unless the instance gives the blob's first chunk to everybody, as it does to other instances."""
    if not blob.size:
        return
    headers = {NAMESPACE: image.host, REPOSITORY: image.repository}
    for attempt in range(1, _TRIES + 1):
        try:
            instance.drain(ChunkName(blob.digest, chunk_size, 0).path, headers, lambda _: None)
        except InstanceRefused as refusal:
            if refusal.status == _UNKNOWN:
                raise NotPublic(f"{blob.digest} is not for everybody: {refusal}") from None
            if refusal.status != _BUSY or attempt == _TRIES:
                raise
        else:
            return


def publish_all(
    instance: Instance,
    wishes: Sequence[Wish],
    publish: Callable[[ImageName], Published],
) -> list[Published]:
    """Publish the images of a wish list, each once; a ``*`` is matched with the tags that the repository has now."""
    found: dict[str, Published] = {}
    for wish in wishes:
        try:
            images = list(_images(instance, wish)) if isinstance(wish, Pattern) else [wish]
        except RegistryProxyError as error:
            found[str(wish)] = Published(str(wish), error=str(error))
            continue
        for image in images:
            if str(image) not in found:
                found[str(image)] = publish(image)
    return list(found.values())


def _images(instance: Instance, pattern: Pattern) -> Iterator[ImageName]:
    for tag in _tags(instance, pattern):
        if pattern.matches(tag):
            with suppress(BadRequest, ManifestUnknown):  # a name that can be no tag
                yield ImageName(pattern.host, pattern.repository, reference(tag))


def _tags(instance: Instance, pattern: Pattern) -> Iterator[str]:
    """All tags of the repository, page by page (distribution-spec, "Listing Tags")."""
    last, seen = "", set[str]()
    while True:
        query = urlencode({"ns": pattern.host, "n": _PAGE} | ({"last": last} if last else {}))
        body = instance.get(f"/v2/{pattern.repository}/tags/list?{query}", {}, _LIMIT)
        try:
            page = decode(body, _TagList).tags or ()
        except Unreadable as error:
            raise InstanceRefused(f"{pattern.host}/{pattern.repository}: not a list of tags: {error}") from error
        new = [tag for tag in page if tag not in seen]
        if not new:
            return
        yield from new
        seen.update(new)
        last = page[-1]


def chunk_size_of(instance: Instance) -> int:
    """Bytes of the instance's chunks; raises InstanceRefused if it does not say."""
    size = instance.figures().get("chunk_size")
    if not isinstance(size, int):
        raise InstanceRefused(f"{instance.url}/stats: no chunk size: another version")
    return size


class _TagList(msgspec.Struct):
    tags: tuple[str, ...] | None = None
