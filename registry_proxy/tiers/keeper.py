"""Keeps the accounts true: loads them, counts the files after an unclean stop, looks again at what is in doubt, saves.

All of it happens beside the serving, which never waits for it.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final

import structlog

from registry_proxy.oci.digest import Digest
from registry_proxy.tiers import walk
from registry_proxy.tiers.accounts import Accounts
from registry_proxy.tiers.directory import Directory, State
from registry_proxy.tiers.layout import GroupKey, Layout
from registry_proxy.tiers.schema import AccountPage
from registry_proxy.tiers.space import Space
from registry_proxy.tiers.table import Table
from registry_proxy.tiers.threads import Threads

_log = structlog.get_logger()

_PAGES: Final = tuple(f"{number:02x}" for number in range(256))
_BATCH: Final = 256
_ROUNDS: Final = 4


class Keeper:
    """Loads, counts, corrects and saves the accounts of one store."""

    def __init__(
        self, directory: Directory, accounts: Accounts, space: Space, pages: Table[AccountPage], threads: Threads
    ) -> None:
        self._directory = directory
        self._accounts = accounts
        self._space = space
        self._pages = pages
        self._threads = threads
        self._glanced: set[GroupKey] = set()
        self._glanced_blobs: set[Digest] = set()
        self.counted = asyncio.Event()

    async def take_stock(self) -> None:
        """Load the accounts, and count the files unless the accounts are those of a clean stop. Sets ``counted``."""
        with self._accounts.counted():
            loaded = await self._load()
            left = self._directory.left
            if left is None or not left.clean or left.bytes != loaded:
                await self._count()
            self._accounts.sort()
            self._space.uncounted = 0
        await self.look_again()
        self.counted.set()
        self._glanced.clear()
        self._glanced_blobs.clear()

    async def _load(self) -> int:
        """Take the saved pages; the sum of the bytes they name."""
        total = 0
        for name in _PAGES:
            page = await self._pages.get(name)
            if page is not None:
                total += sum(account.bytes for account in page.groups)
                self._accounts.load(page, self._accounts.doubtful | self._glanced)
        return total

    def glance(self, key: GroupKey) -> None:
        """Look at a group's files at once, the first time it is asked for before everything is counted. Blocks for 0.1 ms."""
        if self.counted.is_set() or key in self._glanced:
            return
        self._glanced.add(key)
        with contextlib.suppress(OSError):
            found = walk.look_at_group(self._directory.layout, key)
            self._accounts.correct(key, found.bytes, found.mask, found.newest)

    def glance_at_blob(self, digest: Digest) -> None:
        """The same for all groups that a blob has on disk."""
        if self.counted.is_set() or digest in self._glanced_blobs:
            return
        self._glanced_blobs.add(digest)
        with contextlib.suppress(OSError):
            for key in walk.groups_of(self._directory.layout, digest):
                self.glance(key)

    async def _count(self) -> None:
        layout = self._directory.layout
        seen: set[GroupKey] = set()
        for shard in await self._threads.run(walk.shards, layout):
            found = await self._threads.run(_look_at_shard, layout, shard)
            seen.update(group.key for group in found)
            self._believe(found)
        for key in [group.key for group in self._accounts if group.key not in seen]:
            self._believe([walk.GroupFound(key, 0, 0, 0.0)])
        _log.info("store.counted", groups=len(self._accounts), bytes=self._accounts.bytes)

    def _believe(self, found: Iterable[walk.GroupFound]) -> None:
        for group in found:
            if group.key not in self._accounts.doubtful:
                self._accounts.correct(group.key, group.bytes, group.mask, group.newest)

    async def look_again(self) -> None:
        """Correct the accounts that are in doubt. Those that change meanwhile stay in doubt."""
        for _ in range(_ROUNDS):
            doubtful = self._accounts.doubtful
            batch = [doubtful.pop() for _ in range(min(len(doubtful), _BATCH))]
            if not batch or self._accounts.counting:
                doubtful.update(batch)
                return
            try:
                with self._accounts.counted():
                    self._believe(await self._threads.run(_look_at_groups, self._directory.layout, batch))
            except BaseException:
                doubtful.update(batch)
                raise

    async def save(self) -> None:
        """Save the accounts that changed; what the disk does not take is saved the next time."""
        left, self._accounts.changed_pages = self._accounts.changed_pages, set()
        try:
            for name, page in self._accounts.pages(left).items():
                if await self._pages.put(name, page):
                    left.discard(name)
        finally:
            self._accounts.changed_pages |= left

    async def save_last(self) -> None:
        """Save everything and note that the stop was a clean one, if the accounts are known to be true and on disk."""
        await self.look_again()
        await self.save()
        clean = self.counted.is_set() and not self._accounts.doubtful and not self._accounts.changed_pages
        if clean:
            state = State(clean=True, bytes=self._accounts.bytes)
            await self._threads.run(self._directory.write_state, state)


def _look_at_groups(layout: Layout, keys: Iterable[GroupKey]) -> list[walk.GroupFound]:
    return [walk.look_at_group(layout, key) for key in keys]


def _look_at_shard(layout: Layout, shard: str) -> list[walk.GroupFound]:
    return _look_at_groups(layout, walk.groups(layout, shard))
