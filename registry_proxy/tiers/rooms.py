"""Makes room: evicts what was used longest ago until a reservation fits."""

import asyncio
import os
from collections.abc import Sequence
from typing import Final

import structlog

from registry_proxy.oci.digest import Digest
from registry_proxy.plan import eviction
from registry_proxy.tiers import walk
from registry_proxy.tiers.accounts import Accounts, Group
from registry_proxy.tiers.directory import Directory, State
from registry_proxy.tiers.keeper import Keeper
from registry_proxy.tiers.layout import GroupKey, Layout
from registry_proxy.tiers.openfiles import OpenFiles
from registry_proxy.tiers.space import Room, Space
from registry_proxy.tiers.threads import Threads

_log = structlog.get_logger()

_COUNT_PATIENCE: Final = 2.0
_ATTEMPTS: Final = 3
_SPARED: Final = 16
"""What is spared is at most this part of the store."""


class Rooms:
    """Reservations, one at a time, each evicting what it needs. ``evictions``: groups evicted so far."""

    def __init__(
        self, directory: Directory, accounts: Accounts, files: OpenFiles, space: Space, keeper: Keeper, threads: Threads
    ) -> None:
        self._directory = directory
        self._accounts = accounts
        self._files = files
        self._space = space
        self._keeper = keeper
        self._threads = threads
        self._turn = asyncio.Lock()
        self._noted = 0
        self.evictions = 0

    async def reserve(self, nbytes: int, digest: Digest) -> Room | None:
        """Room for ``nbytes`` of this blob; None if there is none even after evicting all that may go. Raises OSError."""
        want = self._space.cost_of(nbytes)
        async with self._turn:
            if await self._make_room(want):
                await self._note(want)
                return self._space.promise(want)
        _log.warning("store.no_room", digest=str(digest), bytes=want, limit=self._space.limit, held=self._space.held)
        return None

    async def trim(self) -> None:
        """Evict down to the limit (which may have been lowered since the last start)."""
        async with self._turn:
            await self._make_room(0)

    async def _make_room(self, want: int) -> bool:
        for _ in range(_ATTEMPTS):
            free, total = await self._disk_space()
            need = self._space.shortfall(want, free, total)
            if need <= 0:
                return True
            victims = self._victims(need)
            if victims is not None:
                await self._evict(victims)
            elif not await self._counted_meanwhile():
                return False
        return False

    def _victims(self, need: int) -> Sequence[Group] | None:
        """What goes; what is spared goes too if there is not enough else."""
        some = eviction.choose(self._accounts.evictable(self._space.limit // _SPARED), need)
        return some if some is not None else eviction.choose(self._accounts.evictable(0), need)

    async def _disk_space(self) -> tuple[int, int]:
        """As ``disk_space``; the store's directory is made again if it is gone. Raises OSError, StoreUnusable."""
        found = await self._threads.run(_own_space, self._directory)
        if found is None:
            await self._threads.run(self._directory.make_again)
            _log.warning("store.made_again", directory=str(self._directory.layout.root))
            self._noted = 0
            found = await self._threads.run(disk_space, self._directory.layout)
        return found

    async def _counted_meanwhile(self) -> bool:
        """After an unclean start the sums are too high until the files are counted: wait a little for that."""
        if self._keeper.counted.is_set():
            return False
        try:
            async with asyncio.timeout(_COUNT_PATIENCE):
                return await self._keeper.counted.wait()
        except TimeoutError:
            return False

    async def _evict(self, victims: Sequence[Group]) -> None:
        keys = [group.key for group in victims]
        leaving = sum(group.bytes for group in victims)
        self._space.leaving += leaving
        for key in keys:
            self._accounts.forget(key)
            self._files.forget_group(key)
        try:
            kept = await self._threads.run(_remove_groups, self._directory.layout, keys)
        except BaseException:
            self._accounts.doubtful.update(keys)
            raise
        finally:
            self._space.leaving -= leaving
        self.evictions += len(keys) - len(kept)
        committed = [key for key in keys if self._accounts.find(key) is not None]  # meanwhile: it may have gone along
        self._accounts.doubtful.update(kept, committed)
        if kept:
            await self._keeper.look_again()

    async def _note(self, want: int) -> None:
        """Write down a new bound on the bytes held before it is reached, for the case of an unclean stop."""
        if self._space.held + self._space.promised + want > self._noted:
            self._noted = self._space.bound(want)
            await self._threads.run(self._directory.write_state, State(clean=False, bytes=self._noted))


def disk_space(layout: Layout) -> tuple[int, int]:
    """Bytes free for us and bytes in all on the store's file system; raises OSError."""
    found = os.statvfs(layout.root)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def _own_space(directory: Directory) -> tuple[int, int] | None:
    """As ``disk_space``, or None if the directory is not this instance's any more."""
    return disk_space(directory.layout) if directory.lock.holds() else None


def _remove_groups(layout: Layout, keys: Sequence[GroupKey]) -> list[GroupKey]:
    """Remove the files of groups; those that would not go."""
    return [key for key in keys if not walk.remove_group(layout, key)]
