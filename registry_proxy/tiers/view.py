"""The store as a process sees it that does not own it: chunks to read, and nothing else.

No lock, no accounts, nothing written. A chunk is there if its file opens; whoever owns the store may evict it at any time, and who
has it open reads on. What this process has not seen yet is hashed first, unless the owner vouches for that very file.
"""

from collections.abc import Awaitable, Callable
from time import time

from registry_proxy.config import Store
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Grid
from registry_proxy.tiers.accounts import Group
from registry_proxy.tiers.checks import Checks
from registry_proxy.tiers.health import Health
from registry_proxy.tiers.layout import GroupKey, Layout
from registry_proxy.tiers.openfiles import OpenFile, OpenFiles, StoredChunk
from registry_proxy.tiers.threads import Threads

_THREADS = 4
_MARKED = 4096
"""Groups whose use is remembered until ``marks`` is called; of more, those that were used first are not told."""


class StoreView:
    """Chunks in files that another process writes. ``doubt``: tells that process of one that was found wrong."""

    def __init__(self, settings: Store, doubt: Callable[[Digest, int], Awaitable[None]]) -> None:
        self.chunk_size = int(settings.chunk_size)
        self._doubt = doubt
        self._files = OpenFiles(Layout(settings.path.absolute()), settings.open_files)
        self._threads = Threads("store", _THREADS)
        self._checks = Checks(self._files, self._threads, self._drop)
        self._health = Health(str(settings.path))
        self._used: dict[GroupKey, Group] = {}

    def grid(self, size: int) -> Grid:
        """How a blob of ``size`` bytes is cut here."""
        return Grid(size, self.chunk_size)

    def open_chunk(self, digest: Digest, grid: Grid, index: int, identity: int | None = None) -> StoredChunk | None:
        """The chunk, open, if it is here and known to be right; the caller closes it. Never waits, never raises.

        ``identity``: of the file that the owner of the store has found right.
        """
        found = self._find(digest, grid, index)
        if found is None:
            return None
        if not found.checked:
            if identity != found.identity:
                return None
            self._files.trust(found)
        return StoredChunk(found, self._mark(found.group))

    async def load_chunk(self, digest: Digest, grid: Grid, index: int) -> StoredChunk | None:
        """The chunk, open, if it is here; hashes it first where needed. The caller closes it."""
        found = self._find(digest, grid, index)
        if found is not None and not found.checked:
            await self._checks.wait_for(found)
        return self.open_chunk(digest, grid, index)

    def marks(self) -> list[GroupKey]:
        """The groups that were read since the last call, each once."""
        used, self._used = self._used, {}
        return list(used)

    def age(self) -> None:
        """Close what was not used between the last two calls."""
        self._files.age()

    async def close(self) -> None:
        """Close every file that is not on loan."""
        await self._threads.close()
        self._files.close()

    def _find(self, digest: Digest, grid: Grid, index: int) -> OpenFile | None:
        try:
            return self._files.find(digest, index, grid.length_of(index))
        except OSError as error:
            self._health.complain("store.unreadable", error)
            return None

    def _mark(self, key: GroupKey) -> Group:
        """The group's account here, which counts nothing: its owner's is elsewhere."""
        group = self._used.get(key)
        if group is None:
            if len(self._used) >= _MARKED:
                del self._used[next(iter(self._used))]
            group = self._used[key] = Group(key, time())
        return group

    async def _drop(self, digest: Digest, index: int) -> None:
        self._files.forget(digest, index)
        await self._doubt(digest, index)
