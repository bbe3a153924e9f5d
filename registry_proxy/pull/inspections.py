"""What the inspections of all blobs share: a thread, a bound on memory, and how a TOC is had."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from registry_proxy.config.values import VerifyChunks
from registry_proxy.lazy import layers
from registry_proxy.lazy.failures import IndexInvalid, TocTooLarge
from registry_proxy.lazy.frames import Frames
from registry_proxy.lazy.ztoc import ztoc
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from registry_proxy.pull.inspection import Inspection, Read
from registry_proxy.pull.landing import BlobLanding
from registry_proxy.sources.base import BlobPlace
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.tiers.schema import TocHint
from registry_proxy.tiers.store import ChunkStore
from registry_proxy.tiers.threads import Threads

T = TypeVar("T")

_MEMORY: Final = 64 << 20
"""Bytes of frames that are kept: of some three hundred large layers."""

_NICE: Final = 10
"""How far the thread stands back where nobody waits for it."""

_LARGEST_ZTOC: Final = 64 << 20
"""Bytes; that of a layer of 5 GB has 60 MB."""


class Inspections:
    """All inspections. ``read_blob``: a whole blob of a repository, of so many bytes; ``doubted``: told of each blob of which wrong bytes came."""

    def __init__(
        self,
        when: VerifyChunks,
        store: ChunkStore,
        metrics: Metrics,
        read_blob: Callable[[BlobPlace, int], Awaitable[bytes]],
        doubted: Callable[[Digest], None],
    ) -> None:
        self.store = store
        self.metrics = metrics
        self.turn = asyncio.Semaphore(1)
        self._when = when
        self._read_blob = read_blob
        self._doubted = doubted
        self._threads = Threads("toc", 1, nice=0 if when == "before" else _NICE)
        self._loaded: weakref.WeakKeyDictionary[Inspection, None] = weakref.WeakKeyDictionary()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def off(self) -> bool:
        """True if nothing is ever compared."""
        return self._when == "off"

    def of(self, place: BlobPlace, landing: BlobLanding, hint: TocHint) -> Inspection:
        """The inspection of a blob, not begun."""
        return Inspection(place, landing, hint, self, holds=self._when == "before")

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._threads.close()

    # --- for the inspections (the Bench protocol) ----------------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do this beside everything else."""
        task = asyncio.create_task(work, name="inspection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run(self, work: Callable[..., T], /, *args: object) -> T:
        """Do something that takes a while, in the thread."""
        return await self._threads.run(work, *args)

    async def load(self, inspection: Inspection, read: Read) -> Frames:
        """Fetch and decode a TOC, and spare its chunks. Raises IndexInvalid, or what reading raises."""
        if inspection.hint.ztoc:
            return await self._load_ztoc(inspection)
        asked: list[Span] = []

        async def noted(span: Span) -> bytes:
            asked.append(span)
            return await read(span)

        try:
            return await self._load_own(inspection, noted)
        except TocTooLarge:
            raise
        except IndexInvalid:  # what came may be wrong, or what the manifest says: have it once more
            if not asked or not await inspection.evict({i for span in asked for i in inspection.grid.touched(span)}):
                raise
        return await self._load_own(inspection, read)

    async def spare(self, inspection: Inspection, read: Read) -> None:
        """Spare the chunks of a TOC, if that takes no fetching."""
        if inspection.hint.ztoc:
            self._spare(inspection, Digest.parse(inspection.hint.ztoc), inspection.hint.ztoc_size)
            return
        grid, last = inspection.grid, layers.tail(inspection.grid.size, inspection.hint.annotations)
        if last is None or all(self.store.has(inspection.landing.digest, index) for index in grid.touched(last)):
            await self._find(inspection, read)

    def keep(self, inspection: Inspection) -> None:
        """This one has loaded its frames; those that did so longest ago may have to let go of theirs."""
        self._loaded.pop(inspection, None)
        held = sum(other.weight for other in self._loaded) + inspection.weight
        for other in list(self._loaded):
            if held > _MEMORY or not other.weight:
                held -= other.weight
                del self._loaded[other]
                other.unload()
        self._loaded[inspection] = None

    def doubt(self, inspection: Inspection) -> None:
        """What came of this blob was wrong: have it from elsewhere if possible."""
        self._doubted(inspection.landing.digest)

    # --- how a TOC is had ----------------------------------------------------------------------------------------------

    async def _find(self, inspection: Inspection, read: Read) -> layers.Toc:
        """Where a layer has its TOC, whose chunks are spared from now on. Raises IndexInvalid."""
        grid, annotations = inspection.grid, inspection.hint.annotations
        last = layers.tail(grid.size, annotations)
        found = layers.toc(grid.size, annotations, await read(last) if last else b"")
        inspection.spare(grid.touched(Span(found.span.start, grid.size)))
        return found

    async def _load_own(self, inspection: Inspection, read: Read) -> Frames:
        toc = await self._find(inspection, read)
        return await self.run(toc.frames, await read(toc.span))

    async def _load_ztoc(self, inspection: Inspection) -> Frames:
        hint, place = inspection.hint, inspection.place
        if hint.ztoc_size > _LARGEST_ZTOC:
            raise TocTooLarge(f"a zTOC of {hint.ztoc_size} bytes")
        digest = Digest.parse(hint.ztoc)
        data = await self._read_blob(BlobPlace(place.upstream, place.repository, digest), hint.ztoc_size)
        frames = await self.run(_of_ztoc, data, inspection.grid.size)
        self._spare(inspection, digest, len(data))
        return frames

    def _spare(self, inspection: Inspection, digest: Digest, size: int) -> None:
        self.store.spare(digest, range(self.store.grid(size).count), inspection.landing.digest, inspection.grid)


def _of_ztoc(data: bytes, size: int) -> Frames:
    found = ztoc.parse(data, files=False)
    if found.compressed != size:
        raise IndexInvalid("a zTOC of another layer")
    return ztoc.frames(found)
