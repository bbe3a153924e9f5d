"""The records: what the proxy remembers beside chunks, in typed tables over one tamed diskcache.

Losing any of it costs a question to an upstream, nothing else: so trouble with the disk is a miss, and the proxy goes on with
what is in memory. One thread owns the database.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import structlog

from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.tiers.recordfile import LOCK_WAIT, RecordFile
from registry_proxy.tiers.schema import (
    AccountPage,
    Fact,
    Hint,
    ManifestRecord,
    Place,
    Places,
    Public,
    Siblings,
    TagRecord,
    TocHint,
    VerifiedBlob,
    digest_key,
    tag_key,
)
from registry_proxy.tiers.table import Table

__all__ = ["Records", "VerifiedBlob"]

_log = structlog.get_logger()

P = ParamSpec("P")
R = TypeVar("R")

LIMIT: Final = 1 << 30
"""Bytes of records on disk; beyond that the first written go."""

MAX_PLACES: Final = 16

_PATIENCE: Final = 15.0
_BIG: Final = 32 << 20
_SWEEP: Final = 256
_SWEEP_EVERY: Final = 3600.0


class Records:
    """The tables. Keys are made by ``tag_key`` and ``digest_key``, or are a digest's or a host's text.

    ``tags`` (tag_key), ``manifests`` (digest), ``facts`` (digest_key), ``places`` (digest), ``hints``
    (digest_key), ``tocs`` (digest_key), ``siblings`` (digest_key), ``verified`` (digest), ``public`` (digest), ``accounts`` (page).

    ``asked_as``: as whom an upstream is asked about a repository, empty for anybody. What it has told an account, or us for readers of a
    guarded upstream, is not found any more once it is asked otherwise: who opens an upstream does not open what the store has of it.
    """

    def __init__(self, backing: "Database", clock: Callable[[], float]) -> None:
        self._backing = backing
        self.asked_as: Callable[[SourceHost, Repository], str] = lambda _upstream, _repository: ""
        self.tags = Table("tag", TagRecord, backing, clock)
        self.manifests = Table("manifest", ManifestRecord, backing, clock, _BIG)
        self.facts = Table("fact", Fact, backing, clock)
        self.places = Table("places", Places, backing, clock)
        self.hints = Table("hint", Hint, backing, clock)
        self.tocs = Table("toc", TocHint, backing, clock)
        self.siblings = Table("siblings", Siblings, backing, clock)
        self.verified = Table("verified", VerifiedBlob, backing, clock, _BIG)
        self.public = Table("public", Public, backing, clock)
        self.accounts = Table("accounts", AccountPage, backing, clock, 0)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, directory: Path, clock: Callable[[], float] = time.time, lock_wait: float = LOCK_WAIT
    ) -> AsyncIterator["Records"]:
        """The records in a directory of the store, for as long as they are open. Never fails for what the disk does.

        ``clock``: seconds since the epoch. ``lock_wait``: seconds to wait for a lock that another process holds.
        """
        database = Database(RecordFile(directory, lock_wait))
        await database.open()
        records = cls(database, clock)
        sweeping = asyncio.create_task(records._keep_swept(), name="records sweeper")
        try:
            yield records
        finally:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
            await database.close()

    async def _keep_swept(self) -> None:
        while True:
            await self.sweep()
            await asyncio.sleep(_SWEEP_EVERY)

    def tag_key(self, upstream: SourceHost, repository: Repository, tag: str) -> str:
        """The key of a tag, as the upstream is asked now."""
        return tag_key(upstream, repository, tag, self.asked_as(upstream, repository))

    def digest_key(self, upstream: SourceHost, repository: Repository, digest: Digest) -> str:
        """The key of a digest in a repository, as the upstream is asked now."""
        return digest_key(upstream, repository, digest, self.asked_as(upstream, repository))

    async def add_place(self, digest: Digest, upstream: SourceHost, repository: Repository) -> None:
        """Note that a digest is a fact in this repository; the newest sixteen are kept."""
        place = Place(upstream, repository)
        known = await self.places.get(str(digest)) or Places()
        if known.places[:1] != (place,):
            others = tuple(other for other in known.places if other != place)
            await self.places.put(str(digest), Places((place, *others)[:MAX_PLACES]))

    async def sweep(self) -> None:
        """Delete the records written first until the limit holds; accounts stay."""
        await self._backing.sweep(LIMIT, "accounts:")


class Database:
    """The record file behind its own thread; every wait for it ends.

    While a call is late, as on a disk that hangs, others are not made at all: what is read is missing, what is written stays in memory.
    Or each request would wait as long, and what is to be written would pile up.
    """

    def __init__(self, file: RecordFile) -> None:
        self._file = file
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="records")
        self._late: asyncio.Future[Any] | None = None

    async def open(self) -> None:
        """Open the file."""
        await self._run(self._file.open)

    async def read(self, key: str) -> bytes | None:
        """The bytes under a key; None too if that takes too long."""
        return await self._run(self._file.get, key)

    async def write(self, items: list[tuple[str, bytes]]) -> bool:
        """Keep these. True if they are on disk."""
        return await self._run(self._file.put, items) or False

    async def remove(self, keys: list[str]) -> None:
        """Forget these."""
        await self._run(self._file.delete, keys)

    async def sweep(self, limit: int, spare: str) -> None:
        """Delete what was written first, sparing keys with a prefix, until at most ``limit`` bytes are left or none will go."""
        volume = await self._run(self._file.volume) or 0
        while volume > limit:
            await self.remove(await self._run(self._file.oldest, _SWEEP, spare) or [])
            before, volume = volume, await self._run(self._file.volume) or 0
            if volume >= before:
                return

    async def close(self) -> None:
        """Close the file after what is still to be written."""
        await self._wait_for(self._executor.submit(self._file.close))
        self._executor.shutdown(wait=False)

    async def _run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """The function's result from the thread. None while another call is late, and when this one becomes so: it goes on without us."""
        if self._late is not None and not self._late.done():
            return None
        return await self._wait_for(self._executor.submit(function, *args, **kwargs))

    async def _wait_for(self, work: Future[R]) -> R | None:
        running = asyncio.wrap_future(work)
        try:
            async with asyncio.timeout(_PATIENCE):
                return await asyncio.shield(running)
        except TimeoutError:
            _log.warning("records.late", seconds=_PATIENCE)
            self._late = running
            return None
