"""Hashing chunks that this process has not seen yet: once each, whoever waits for them."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from registry_proxy.oci.digest import Digest
from registry_proxy.tiers.openfiles import ChunkKey, OpenFile, OpenFiles
from registry_proxy.tiers.threads import Threads

_log = structlog.get_logger()

_PATIENCE: Final = 10.0


class Checks:
    """The hashes under way. ``drop``: takes away a chunk that was found wrong."""

    def __init__(self, files: OpenFiles, threads: Threads, drop: Callable[[Digest, int], Awaitable[None]]) -> None:
        self._files = files
        self._threads = threads
        self._drop = drop
        self._running: dict[ChunkKey, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._running)

    async def wait_for(self, found: OpenFile) -> None:
        """Wait until the file was found right, or its chunk was dropped, or a while has passed; the hash goes on then."""
        task = self._running.get(found.key)
        if task is None:
            found.loans += 1  # at once: its file may be forgotten before the check begins
            task = self._running[found.key] = self._threads.start(self._check(found))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await asyncio.shield(task)

    async def _check(self, found: OpenFile) -> None:
        digest, index = found.key
        try:
            if await self._threads.run(found.is_right):
                self._files.trust(found)
            else:
                _log.error("store.chunk_wrong", digest=str(digest), chunk=index)
                await self._drop(digest, index)
        finally:
            found.loans -= 1
            found.close_if_done()
            del self._running[found.key]
