"""The instance's own chunks: the façade that the heart of the proxy talks to.

The lifetime of a chunk here::

    reserve ──► put ──► committed: open_chunk finds it ──► evicted or dropped: its file is unlinked
                 │                     │                          │
                 └ hashed, written     └ checked once per process └ whoever has it open reads on
                   beside, renamed       and per change from outside

Looking up is synchronous and opens a file at most: ``open_chunk`` gives only chunks that are known to be right. One that this
process has not seen yet is hashed first, in a thread, by ``load_chunk``. ``has`` and ``missing`` are beliefs for
planning: they may say that a chunk is there which then is not, and say for a moment after a start that nothing is there.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Final

import structlog

from registry_proxy import config
from registry_proxy.errors import StoreUnusable
from registry_proxy.oci.digest import Digest, Hasher
from registry_proxy.plan.chunks import Grid
from registry_proxy.tiers import directory, walk
from registry_proxy.tiers.accounts import Accounts, Beneficiary
from registry_proxy.tiers.checks import Checks
from registry_proxy.tiers.chunkfile import Buffer
from registry_proxy.tiers.commits import Commits
from registry_proxy.tiers.directory import Directory
from registry_proxy.tiers.health import Health
from registry_proxy.tiers.keeper import Keeper
from registry_proxy.tiers.layout import GROUP, GroupKey, Layout
from registry_proxy.tiers.openfiles import OpenFile, OpenFiles, StoredChunk, trailers
from registry_proxy.tiers.records import Records
from registry_proxy.tiers.rooms import Rooms, disk_space
from registry_proxy.tiers.schema import AccountPage
from registry_proxy.tiers.space import Room, Space, default_limit
from registry_proxy.tiers.table import Table
from registry_proxy.tiers.threads import Threads

__all__ = ["ChunkStore", "Room", "StoreStats", "StoredChunk", "open_store"]

_log = structlog.get_logger()

_THREADS: Final = 4
_ROOM_PATIENCE: Final = 30.0
_TENDING: Final = 30.0


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What the store holds. ``bytes``, ``limit``, ``promised``: on disk; ``evictions``: groups evicted since the start."""

    bytes: int
    limit: int
    promised: int
    chunks: int
    groups: int
    evictions: int
    open_files: int
    writable: bool
    counted: bool


@contextlib.asynccontextmanager
async def open_store(
    settings: config.Store, clock: Callable[[], float] = time.time
) -> AsyncIterator[tuple["ChunkStore", Records]]:
    """The store and the records in its directory, locked for as long as they are open; raises StoreUnusable."""
    opening = directory.opened(settings.path, settings.chunk_size)
    opened = await asyncio.to_thread(opening.__enter__)
    try:
        async with (
            Records.open(opened.layout.records, clock) as records,
            ChunkStore.open(opened, settings, records.accounts, clock) as store,
        ):
            yield store, records
    finally:
        await asyncio.to_thread(opening.__exit__, None, None, None)


class ChunkStore:
    """Chunks in files. ``chunk_size``: bytes of every chunk but a blob's last; ``limit``: bytes on disk."""

    def __init__(
        self,
        opened: Directory,
        settings: config.Store,
        limit: int,
        pages: Table[AccountPage],
        clock: Callable[[], float],
    ) -> None:
        self.chunk_size = int(settings.chunk_size)
        self._settings = settings
        self._layout: Layout = opened.layout
        self._threads = Threads("store", _THREADS)
        self._accounts = Accounts(clock)
        self._files = OpenFiles(opened.layout, settings.open_files)
        self._space = Space(self._accounts, limit, settings.chunk_size)
        self._space.uncounted = opened.left.bytes if opened.left is not None else limit
        self._keeper = Keeper(opened, self._accounts, self._space, pages, self._threads)
        self._rooms = Rooms(opened, self._accounts, self._files, self._space, self._keeper, self._threads)
        self._checks = Checks(self._files, self._threads, self.drop_chunk)
        self._health = Health(str(opened.layout.root))
        self._commits = Commits(opened.layout, self._accounts, self._files, self._health, self._threads)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        opened: Directory,
        settings: config.Store,
        pages: Table[AccountPage],
        clock: Callable[[], float] = time.time,
    ) -> AsyncIterator["ChunkStore"]:
        """The store in a locked directory, serving at once; its accounts are loaded beside. Saves them at the end."""
        free, _ = await asyncio.to_thread(disk_space, opened.layout)
        held = opened.left.bytes if opened.left is not None else 0
        limit = int(settings.limit) if settings.limit is not None else default_limit(free, held)
        store = cls(opened, settings, limit, pages, clock)
        tending = asyncio.create_task(store._tend(), name="store keeper")
        try:
            yield store
        finally:
            tending.cancel()
            (ended,) = await asyncio.gather(tending, return_exceptions=True)
            if isinstance(ended, Exception):
                _log.error("store.keeper_died", exc_info=ended)
            await store._close()

    async def _tend(self) -> None:
        """Take stock, then look again, save and close idle files now and then."""
        while True:
            try:
                if not self._keeper.counted.is_set():
                    await self._keeper.take_stock()
                    await self._settle_limit()
                await self._rooms.trim()
                await self.save()
            except (OSError, StoreUnusable) as error:
                self._health.complain("store.untended", error)
            self._files.age()
            await asyncio.sleep(_TENDING)

    async def _settle_limit(self) -> None:
        """Work out a limit that was left open, now that the store's own use is known."""
        if self._settings.limit is None:
            free, _ = await self._threads.run(disk_space, self._layout)
            self._space.limit = default_limit(free, self._accounts.bytes)

    async def _close(self) -> None:
        await self._threads.settle()
        self._files.close()
        try:
            await self._keeper.save_last()
        except OSError as error:
            self._health.complain("store.not_saved", error)
        await self._threads.close()

    def grid(self, size: int) -> Grid:
        """How a blob of ``size`` bytes is cut here."""
        return Grid(size, self.chunk_size)

    @property
    def limit(self) -> int:
        """Bytes on disk at most."""
        return self._space.limit

    @property
    def writable(self) -> bool:
        """False for a while after the disk has refused a chunk, and while it is slow to take one."""
        return self._health.writable

    async def counted(self) -> None:
        """Wait until the accounts are those of the files."""
        await self._keeper.counted.wait()

    async def save(self) -> None:
        """Save the accounts now rather than in a while."""
        await self._keeper.look_again()
        await self._keeper.save()

    def stats(self) -> StoreStats:
        """What the store holds now."""
        return StoreStats(
            bytes=self._space.held,
            limit=self._space.limit,
            promised=self._space.promised,
            chunks=self._accounts.chunks,
            groups=len(self._accounts),
            evictions=self._rooms.evictions,
            open_files=len(self._files),
            writable=self.writable,
            counted=self._keeper.counted.is_set(),
        )

    # --- looking up ------------------------------------------------------------------------------------------------------

    def open_chunk(self, digest: Digest, grid: Grid, index: int) -> StoredChunk | None:
        """The chunk, open, if it is here and known to be right; the caller closes it. Never waits, never raises.

        This is the disk tier's look-up: about as much work as a dict look-up and an fstat when its file is open already.
        """
        found = self._find(digest, grid, index)
        if found is None or not found.checked:
            return None
        group = self._accounts.use(found.group)
        if not group.mask >> index % GROUP & 1:
            self._accounts.doubtful.add(found.group)
        return StoredChunk(found, group)

    async def load_chunk(self, digest: Digest, grid: Grid, index: int) -> StoredChunk | None:
        """The chunk, open, if it is here; hashes it first where needed, and drops it if it is wrong. The caller closes it.

        Costs a hop into a thread only where there is something to hash; whoever asks for the same chunk waits for one hash.
        """
        found = self._find(digest, grid, index)
        if found is not None and not found.checked:
            await self._checks.wait_for(found)
        return self.open_chunk(digest, grid, index)

    def _find(self, digest: Digest, grid: Grid, index: int) -> OpenFile | None:
        if grid.chunk != self.chunk_size:
            raise ValueError(f"chunks of {grid.chunk} bytes asked of a store of {self.chunk_size}")
        try:
            found = self._files.find(digest, index, grid.length_of(index))
        except OSError as error:
            self._health.complain("store.unreadable", error)
            return None
        if found is None:
            self._accounts.lost(digest, index)
        return found

    def used(self, keys: Iterable[GroupKey]) -> None:
        """Other processes have read chunks of these groups."""
        for key in keys:
            if self._accounts.find(key) is not None:
                self._accounts.use(key)

    def doubt(self, digest: Digest, index: int) -> None:
        """Another process has found this chunk wrong: it is hashed again before it is read again."""
        self._files.doubt(digest, index)

    def has(self, digest: Digest, index: int) -> bool:
        """True if the chunk is believed to be here; for planning."""
        self._keeper.glance(GroupKey.of(digest, index))
        return self._accounts.has(digest, index)

    def missing(self, digest: Digest, grid: Grid) -> int:
        """Number of the blob's chunks believed not to be here; for planning."""
        self._keeper.glance_at_blob(digest)
        return self._accounts.missing(digest, grid)

    # --- writing ---------------------------------------------------------------------------------------------------------

    async def reserve(self, nbytes: int, digest: Digest) -> Room | None:
        """Room for ``nbytes`` of a blob, from a chunk's start; evicts what was used longest ago. The caller releases it.

        None if there is no room, the disk does not work, or it takes too long.
        """
        if not self.writable:
            return None
        try:
            return await self._threads.finish(self._rooms.reserve(nbytes, digest), _ROOM_PATIENCE, _release)
        except (OSError, TimeoutError, StoreUnusable) as error:
            self._health.refuse(error)
            return None

    async def put(
        self,
        digest: Digest,
        grid: Grid,
        index: int,
        data: Buffer,
        room: Room,
        *,
        hasher: Hasher | None = None,
    ) -> StoredChunk:
        """Commit a chunk into reserved room; returns it open, the caller closes it. ``data`` must not change any more.

        ``hasher``: takes the chunk's bytes in the same hop, also when StoreTrouble (StoreFull, StoreBroken) is raised: the chunk is
        then to be served from memory.
        """
        if len(data) != grid.length_of(index) or grid.chunk != self.chunk_size:
            raise ValueError(f"{len(data)} bytes are not chunk {index} of {grid}")
        return await self._commits.put(digest, index, data, room, hasher)

    async def drop(self, digest: Digest) -> None:
        """Evict all chunks of a blob; whoever has one open reads on."""
        await self._threads.finish(self._drop(digest), _ROOM_PATIENCE)

    async def _drop(self, digest: Digest) -> None:
        groups = self._accounts.of_blob(digest)
        self._files.forget_blob(digest)
        leaving = sum(group.bytes for group in groups)
        for group in groups:
            self._accounts.forget(group.key)
        self._space.leaving += leaving
        try:
            await self._threads.run(walk.remove_blob, self._layout, digest)
        finally:
            self._space.leaving -= leaving
            self._accounts.doubtful.update(group.key for group in groups)
        await self._keeper.look_again()

    async def drop_chunk(self, digest: Digest, index: int) -> None:
        """Evict one chunk; whoever has it open reads on."""
        self._files.forget(digest, index)
        self._accounts.lost(digest, index)
        await self._threads.run(walk.remove_chunk, self._layout, digest, index)
        self._accounts.doubtful.add(GroupKey.of(digest, index))

    def hold(self, digest: Digest) -> None:
        """From now on this blob is not evicted: it cannot be had again."""
        self._accounts.held.add(digest)

    def release(self, digest: Digest) -> None:
        """Undo ``hold``."""
        self._accounts.held.discard(digest)

    def spare(self, digest: Digest, indexes: Iterable[int], sake: Digest, grid: Grid) -> None:
        """Evict these chunks, a part of a blob, only after the others of the blob ``sake``, which is cut by this grid; up to a
        sixteenth of the store."""
        for key in {GroupKey.of(digest, index) for index in indexes}:
            self._accounts.spare(key, Beneficiary(sake, -(-grid.count // GROUP)))

    # --- whole blobs -----------------------------------------------------------------------------------------------------

    async def hash_blob(self, digest: Digest, grid: Grid) -> Digest | None:
        """The digest of the chunks held, in the algorithm of ``digest``; None if one is missing. One chunk in memory at a time."""
        hasher = digest.hasher()
        for index in range(grid.count):
            chunk = await self.load_chunk(digest, grid, index)
            if chunk is None:
                return None
            try:
                await self._threads.run(_feed, hasher, chunk)
            except OSError as error:
                self._health.complain("store.unreadable", error)
                return None
            finally:
                chunk.close()
        return Digest(digest.algorithm, hasher.hexdigest())

    async def chunk_hashes(self, digest: Digest, grid: Grid) -> bytes | None:
        """The sha-256 of each chunk as its file claims it, 32 bytes each, in order; None if a chunk is missing."""
        try:
            return await self._threads.run(trailers, self._layout, digest, grid)
        except OSError as error:
            self._health.complain("store.unreadable", error)
            return None


def _feed(hasher: Hasher, chunk: StoredChunk) -> None:
    hasher.update(chunk.read(0, chunk.length))


def _release(room: Room | None) -> None:
    if room is not None:
        room.release()
