"""One blob that no digest has covered yet, compared with the table of contents (TOC) that its manifest names, as its chunks come.

Lifetime:

=========  ==========================================================================================================
idle       nobody has read a range of it; its TOC could not be had a moment ago; or it is not believed for a while
loading    the TOC is fetched by an ordinary reader, checked against the manifest, and decoded
comparing  chunks are due when they land, and all that are here when the TOC comes; one after the other is compared
over       the blob was verified
=========  ==========================================================================================================

A chunk with wrong bytes is evicted, and so is what reaches into it from the next one. Where the same bytes come again and again, the TOC
may be what is wrong: it is not believed for a while then, and the digest of the whole blob has the last word (docs/decisions/0008).
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import structlog

from registry_proxy.errors import RegistryProxyError
from registry_proxy.lazy.failures import IndexInvalid, TocTooLarge
from registry_proxy.lazy.frames import Frames
from registry_proxy.plan.chunks import Grid, Span
from registry_proxy.pull.comparison import Insistence, compare
from registry_proxy.pull.landing import BlobLanding
from registry_proxy.sources.base import BlobPlace
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.tiers.openfiles import StoredChunk
from registry_proxy.tiers.schema import TocHint
from registry_proxy.tiers.store import ChunkStore

_log = structlog.get_logger()

T = TypeVar("T")

Read = Callable[[Span], Awaitable[bytes]]
"""Bytes of the blob, fetched where they are missing. Raises what reading a blob raises."""

_PATIENCE: Final = 10.0
"""Seconds that a reader waits for a comparison at the most: what is not compared then is served all the same."""

_RETRY: Final = 30.0
"""Seconds until a TOC that could not be had is asked for again."""

_ASIDE: Final = 600.0
"""Seconds for which a TOC is not believed; then everything is compared anew."""

_AT_ONCE: Final = 1024
"""Chunks that are looked up without letting others go on."""


class Bench(Protocol):
    """What the inspections of all blobs share."""

    store: ChunkStore
    metrics: Metrics
    turn: asyncio.Semaphore
    """For whoever compares: chunks that are open are not evicted, so they are not opened before their turn."""

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do this beside everything else."""

    async def run(self, work: Callable[..., T], /, *args: object) -> T:
        """Do something that takes a while, in a thread."""

    async def load(self, inspection: "Inspection", read: Read) -> Frames:
        """Fetch and decode a TOC, and spare its chunks. Raises IndexInvalid (twice, where it is the blob's own), or what reading raises."""

    async def spare(self, inspection: "Inspection", read: Read) -> None:
        """Spare the chunks of a TOC, if that takes no fetching."""

    def keep(self, inspection: "Inspection") -> None:
        """This one has loaded its frames; those that did so longest ago may have to let go of theirs."""

    def doubt(self, inspection: "Inspection") -> None:
        """What came of this blob was wrong: have it from elsewhere if possible."""


class Inspection:
    """Compares one blob. ``holds``: readers wait for it; ``hint``: where the TOC is said to be; ``distrusted``: it is not believed
    just now; ``evictions``: so far, to compare with."""

    def __init__(self, place: BlobPlace, landing: BlobLanding, hint: TocHint, bench: Bench, *, holds: bool) -> None:
        self.place = place
        self.landing = landing
        self.grid: Grid = landing.grid
        self.hint = hint
        self.holds = holds
        self.over = False
        self.distrusted = False
        self.evictions = 0
        self._bench = bench
        self._frames: Frames | None = None
        self._right = bytearray()  # of each frame
        self._loading = False
        self._due: dict[int, None] = {}
        self._at: int | None = None
        self._landing: Counter[int] = Counter()
        self._wanted: Counter[int] = Counter()
        self._task: asyncio.Task[None] | None = None
        self._step = asyncio.Event()
        self._retry_at = 0.0
        self._evicted: dict[int, int] = {}
        self._spared: Sequence[int] = ()
        self._insistence = Insistence(patient=not hint.ztoc)

    # --- what readers and flights tell and ask -------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """True if its TOC is neither there nor on its way, and may be of use."""
        return not self.over and self._frames is None and self._task is None

    def begin(self, read: Read) -> None:
        """A range of the blob is being read. ``read``: for the TOC."""
        if self.idle and asyncio.get_running_loop().time() >= self._retry_at:
            self.distrusted, self._loading = False, True
            self._task = self._bench.start(self._run(read))

    @contextlib.contextmanager
    def landing_of(self, index: int) -> Iterator[None]:
        """A chunk is being committed: readers may find it before this ends."""
        self._landing[index] += 1
        try:
            yield
            self._landed(index)
        finally:
            self._landing -= Counter((index,))

    def _landed(self, index: int) -> None:
        frames = self._frames
        if index in self._spared:
            self.spare([index])
        if frames is None:
            return  # what is here when the TOC comes is due then
        if self.landing.verified:
            self._end()
            return
        near = frames.spans.near(self.grid.span_of(index))
        self._right[near.start : near.stop] = bytes(len(near))
        self._due[index] = None
        if self._task is None:
            self._task = self._bench.start(self._run(None))

    def pending(self, index: int) -> bool:
        """True while something in a chunk is still to be compared."""
        return not self.over and (self._loading or index in self._due or index in self._landing or index == self._at)

    async def settled(self, index: int) -> None:
        """Wait until all that can be compared in a chunk has been, but not for ever."""
        if not self.pending(index):
            return
        self._wanted[index] += 1
        try:
            async with asyncio.timeout(_PATIENCE):
                while self.pending(index):
                    await self._step.wait()
        except TimeoutError:
            _log.warning("chunk.not_compared", digest=str(self.landing.digest), chunk=index, seconds=_PATIENCE)
        finally:
            self._wanted -= Counter((index,))

    def spare(self, chunks: Sequence[int]) -> None:
        """These chunks, which hold the TOC, outlast the others, those that are here and those that come."""
        self._spared = self._spared or chunks
        self._bench.store.spare(self.landing.digest, chunks, self.landing.digest, self.grid)

    @property
    def weight(self) -> int:
        """Bytes of memory that the frames take."""
        return self._frames.weight if self._frames is not None else 0

    def wrong_since(self, evictions: int, index: int) -> bool:
        """True if a chunk was found wrong and evicted after so many evictions."""
        return self._evicted.get(index, 0) > evictions

    def unload(self) -> None:
        """Let go of the frames: they are loaded again when somebody reads."""
        self._frames = None
        self._right = bytearray()
        self._due.clear()
        self._insistence.clear()

    # --- loading -------------------------------------------------------------------------------------------------------

    async def _run(self, read: Read | None) -> None:
        try:
            if read is not None:
                await self._load(read)
                self._loading = False
            await self._compare_due()
        except Exception:  # noqa: BLE001 - a mistake of ours must not hold up readers
            _log.exception("inspection.broke", digest=str(self.landing.digest))
            self.unload()
            self._rest(_ASIDE)
        finally:
            self._task, self._loading = None, False
            self._tell()

    async def _load(self, read: Read) -> None:
        try:
            if self.landing.verified:
                await self._bench.spare(self, read)
                self._end()
                return
            frames = await self._bench.load(self, read)
        except TocTooLarge as error:
            _log.info("toc.too_large", digest=str(self.landing.digest), error=str(error))
            self._bench.metrics.toc("too-large")
            self._end()
        except IndexInvalid as error:
            self._set_aside("wrong", str(error))
        except RegistryProxyError as error:
            _log.info("toc.unavailable", digest=str(self.landing.digest), error=str(error))
            self._bench.metrics.toc("unavailable")
            self._rest(_RETRY)
        else:
            self._bench.metrics.toc("used")
            self._frames, self._right = frames, bytearray(len(frames))
            self._bench.keep(self)
            await self._sweep()

    async def _sweep(self) -> None:
        """All that is here is due."""
        for index in range(self.grid.count):
            if not index % _AT_ONCE:
                await asyncio.sleep(0)
            if self._has(index):
                self._due[index] = None

    # --- comparing -----------------------------------------------------------------------------------------------------

    async def _compare_due(self) -> None:
        while self._due and not self.over:
            if self.landing.verified:
                self._end()
                return
            index = next((index for index in self._wanted if index in self._due), None)
            index = next(iter(self._due)) if index is None else index
            del self._due[index]
            self._at = index
            try:
                async with self._bench.turn:
                    await self._compare(index)
            finally:
                self._at = None
                self._tell()

    async def _compare(self, index: int) -> None:
        """Compare every frame that lies partly in this chunk and wholly in chunks that are here."""
        frames = self._frames
        near = frames.spans.near(self.grid.span_of(index)) if frames is not None else range(0)
        if frames is None or not near:
            return
        digest, new = self.landing.digest, [number for number in near if not self._right[number]]
        with contextlib.ExitStack() as stack:
            chunks: dict[int, StoredChunk] = {}
            for one in filter(self._has, self.grid.touched(frames.spans.hull(near))):
                chunk = await self._bench.store.load_chunk(digest, self.grid, one)
                if chunk is not None:
                    chunks[one] = stack.enter_context(contextlib.closing(chunk))
            try:
                found = await self._bench.run(compare, frames, self.grid, index, frozenset(new), chunks)
            except OSError as error:
                _log.warning("chunk.not_compared", digest=str(digest), chunk=index, error=str(error))
                return
        if self._frames is frames:
            self._note_right(found.right, frames, {one for one in chunks if one in self._due})
            self._bench.metrics.compared(right=len(found.right), wrong=len(found.wrong))
            if found.wrong:
                await self._condemn(found.wrong, frames)

    def _note_right(self, numbers: Iterable[int], frames: Frames, anew: Collection[int]) -> None:
        """These frames need not be compared again, unless some of it has landed anew meanwhile."""
        for number in numbers:
            if not anew or not any(one in anew for one in self.grid.touched(frames.spans[number])):
                self._right[number] = 1
        self._insistence.forget(numbers)

    async def _condemn(self, wrong: Mapping[int, tuple[bytes, ...]], frames: Frames) -> None:
        """Evict the chunks of wrong frames; or distrust the TOC, if the same ones come again and again."""
        if any(self._insistence.note(number, sums) for number, sums in wrong.items()):
            self._set_aside("set-aside", "the same bytes came again and again")
            return
        chunks = sorted({index for number in wrong for index in self.grid.touched(frames.spans[number])})
        if await self.evict(chunks):
            _log.error("chunk.wrong", digest=str(self.landing.digest), chunks=chunks, frames=len(wrong))

    async def evict(self, indexes: Iterable[int]) -> bool:
        """Drop chunks that were found wrong; False if the blob has been verified meanwhile, which counts for more."""
        indexes = list(indexes)
        if not await self.landing.drop_chunks(indexes):
            return False
        self.evictions += 1
        self._evicted.update(dict.fromkeys(indexes, self.evictions))
        self._bench.doubt(self)
        return True

    # --- states --------------------------------------------------------------------------------------------------------

    def _has(self, index: int) -> bool:
        return self._bench.store.has(self.landing.digest, index)

    def _set_aside(self, outcome: str, why: str) -> None:
        _log.error("toc.not_believed", digest=str(self.landing.digest), repository=self.place.repository, error=why)
        self._bench.metrics.toc(outcome)
        self.distrusted = True
        self.unload()
        self._rest(_ASIDE)

    def _rest(self, seconds: float) -> None:
        self._retry_at = asyncio.get_running_loop().time() + seconds

    def _end(self) -> None:
        self.over = True
        self.unload()
        self._tell()

    def _tell(self) -> None:
        """Wake whoever waits, to look again."""
        self._step.set()
        self._step = asyncio.Event()
