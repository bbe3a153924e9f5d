"""Makes lazy forms of layers: the layer's bytes from wherever a reader has them, a worker process, and the shelf for what it made."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from registry_proxy.errors import ManifestInvalid
from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.work.job import Job
from registry_proxy.lazy.work.process import Order, Product, make
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.ranges import Part
from registry_proxy.pull.blobs import Blobs, OpenBlob
from registry_proxy.sources.base import BlobPlace
from registry_proxy.tiers.shelf import MadeLayer, Shelf


class Workshop:
    """Does the queue's jobs. ``directory``: for files under way."""

    def __init__(self, blobs: Blobs, shelf: Shelf, directory: Path) -> None:
        self._blobs = blobs
        self._shelf = shelf
        self._directory = directory

    async def prepare(self) -> None:
        """Remove what an earlier run left unfinished."""
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    async def do(self, job: Job, progress: Callable[[int], None]) -> None:
        """Make it, unless it is there. Raises LayerRefused (which is remembered), WorkerDied, BlobUnknown, Denied, ManifestInvalid, Trouble, StoreTrouble."""
        source = Digest.parse(job.digest)
        if await self._shelf.layer(job.variant, source) is not None:
            return
        place = BlobPlace(SourceHost(job.upstream), Repository(job.repository), source)
        blob = await self._blobs.open(place, certain=True)
        if blob.size != job.size:
            raise ManifestInvalid(f"{source} has {blob.size} bytes where the manifest says {job.size}")
        scratch = self._directory / job.id
        out = scratch / "out"
        order = Order(job.kind, job.digest, job.size, job.media_type, job.span_size, str(out))
        await asyncio.to_thread(scratch.mkdir, mode=0o700, parents=True, exist_ok=True)
        try:
            product = await make(order, lambda: _whole(blob), progress)
            await self._shelve(job, product, out)
        except LayerRefused as error:
            await self._shelf.note(job.variant, MadeLayer(job.digest, refused=str(error)))
            raise
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)

    async def _shelve(self, job: Job, product: Product, out: Path) -> None:
        file = await asyncio.to_thread(out.open, "rb")
        try:
            await self._shelf.put(file, product.size, Digest.parse(product.digest))
        finally:
            file.close()
        made = MadeLayer(job.digest, product.digest, product.size, product.details)
        await self._shelf.note(job.variant, made)


async def _whole(blob: OpenBlob) -> AsyncGenerator[bytes, None]:
    if not blob.size:
        return
    async with blob.read([Part(Span(0, blob.size))]) as reader, aclosing(reader.pieces(0)) as pieces:
        async for piece in pieces:
            yield await asyncio.to_thread(piece.read)
