"""Copying an image from an instance to where others have it: to a ``Target``, blobs first and what names others last."""

from collections.abc import Callable
from typing import Protocol

from registry_proxy.cli.http import Instance
from registry_proxy.cli.platforms import Wanted
from registry_proxy.cli.warming import Watcher, image_path, manifests_of
from registry_proxy.errors import RegistryProxyError
from registry_proxy.oci.content import OCI_INDEX, OCI_MANIFEST, HintedBlob, blobs
from registry_proxy.oci.names import ImageName

Pour = Callable[[Callable[[bytes], object]], object]
"""Hands a blob to a receiver, piece by piece; as often as it is called."""


class CopyFailed(RegistryProxyError):
    """The target does not take the image; the text says what it said."""


class Target(Protocol):
    """Where an image goes."""

    def has(self, blob: HintedBlob) -> bool:
        """True if the blob is there already; raises CopyFailed."""

    def put_blob(self, blob: HintedBlob, pour: Pour) -> None:
        """Take a blob; raises CopyFailed."""

    def put_manifest(self, body: bytes, media_type: str, tag: str | None) -> None:
        """Take a manifest whose parts are all there; raises CopyFailed."""


def copy_image(instance: Instance, image: ImageName, target: Target, watcher: Watcher) -> int:
    """Copy an image of all its platforms; the bytes of the blobs that were not there. Raises CopyFailed and what ``Instance`` raises."""
    label = f"{image}, copying"
    watcher.image(label)
    documents = list(manifests_of(instance, image, [Wanted()]))
    named = {blob.digest: blob for _, manifest in documents for blob in blobs(manifest)}
    new = [blob for blob in named.values() if not target.has(blob)]
    watcher.expect(label, sum(blob.size for blob in new))
    for blob in new:
        target.put_blob(blob, _pour(instance, image, blob, lambda count: watcher.advance(label, count)))
    for number, (body, manifest) in reversed(list(enumerate(documents))):
        media_type = manifest.media_type or (OCI_INDEX if manifest.is_index else OCI_MANIFEST)
        target.put_manifest(body, media_type, None if number else str(image.reference))
    return sum(blob.size for blob in new)


def _pour(instance: Instance, image: ImageName, blob: HintedBlob, came: Callable[[int], object]) -> Pour:
    path = image_path(image, "blobs", str(blob.digest))

    def pour(receive: Callable[[bytes], object]) -> None:
        def take(piece: bytes) -> None:
            receive(piece)
            came(len(piece))

        if (count := instance.drain(path, {}, take, blob.size)) != blob.size:
            raise CopyFailed(f"{blob.digest} has {count} bytes where the manifest says {blob.size}")

    return pour
