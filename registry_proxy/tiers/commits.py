"""How a chunk is committed: hashed and written in a thread, within a time limit, and accounted for.

Whoever asks for it may leave: the write goes on, its room is used up or given back all the same, and its chunk is closed.
"""

import asyncio
from typing import Final

from registry_proxy.errors import StoreBroken, StoreTrouble
from registry_proxy.oci.digest import Digest, Hasher
from registry_proxy.tiers import chunkfile
from registry_proxy.tiers.accounts import Accounts
from registry_proxy.tiers.chunkfile import Buffer
from registry_proxy.tiers.health import Health
from registry_proxy.tiers.layout import GroupKey, Layout
from registry_proxy.tiers.openfiles import OpenFile, OpenFiles, StoredChunk
from registry_proxy.tiers.space import Room
from registry_proxy.tiers.threads import Threads
from registry_proxy.tiers.writing import Hashing, write_chunk

_PATIENCE: Final = 10.0
"""Seconds that a caller waits for a write."""


class Commits:
    """The writes of one store."""

    def __init__(self, layout: Layout, accounts: Accounts, files: OpenFiles, health: Health, threads: Threads) -> None:
        self._layout = layout
        self._accounts = accounts
        self._files = files
        self._health = health
        self._threads = threads
        self._running: set[Hashing] = set()

    async def put(self, digest: Digest, index: int, data: Buffer, room: Room, hasher: Hasher | None) -> StoredChunk:
        """Commit a chunk; see ``ChunkStore.put``."""
        hashing = Hashing(data, hasher)
        try:
            most = self._admit(len(data), room)
            work = self._write(digest, index, data, room, most, hashing)
            return await self._threads.finish(work, _PATIENCE, StoredChunk.close)
        except TimeoutError as error:
            if hashing in self._running:  # it may have ended in this very moment
                self._health.late.add(hashing)
            self._health.refuse(error)
            await asyncio.to_thread(hashing.run)
            raise StoreBroken(f"the store did not take a chunk within {_PATIENCE:.0f} s") from error
        except StoreTrouble:
            await asyncio.to_thread(hashing.run)
            raise

    def _admit(self, length: int, room: Room) -> int:
        """Take what a chunk of ``length`` bytes needs at most out of the room; raises StoreTrouble."""
        if not self._health.writable:
            raise StoreBroken("the store takes no chunks for the moment")
        most = chunkfile.cost(length + chunkfile.TRAILER)
        room.take(most)
        return most

    async def _write(
        self, digest: Digest, index: int, data: Buffer, room: Room, most: int, hashing: Hashing
    ) -> StoredChunk:
        key = GroupKey.of(digest, index)
        group = self._accounts.use(key)
        group.pins += 1
        self._running.add(hashing)
        try:
            opened = await self._threads.run(_hash_and_write, self._layout, digest, index, data, hashing)
            size = chunkfile.cost(opened.size)
            room.commit(most, size)
            self._accounts.stored(key, index, size)
            self._files.adopt(opened)
            if not opened.unchanged():  # dropped between its rename and now
                self._accounts.doubtful.add(key)
            return StoredChunk(opened, self._accounts.use(key))
        except BaseException as error:
            room.give_back(most)
            if isinstance(error, StoreTrouble):
                self._health.refuse(error)
            raise
        finally:
            group.pins -= 1
            self._running.discard(hashing)
            self._health.late.discard(hashing)


def _hash_and_write(layout: Layout, digest: Digest, index: int, data: Buffer, hashing: Hashing) -> OpenFile:
    return write_chunk(layout, digest, index, data, hashing.run())
