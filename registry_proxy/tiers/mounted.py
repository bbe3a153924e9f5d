"""A mounted CVMFS repository (or any directory of that form) as a tier: ``pread`` in threads of its own, each with a time limit.

CVMFS has its own cache and checks every byte against its catalogs, so nothing is copied up into the store.

A mount that hangs costs each reader of that moment its time limit once. Then the tier *rests*: it is skipped, and tried from
time to time by a call that no reader waits for. It works again as soon as such a call, or one of those given up on, returns.
"""

import asyncio
import errno
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import structlog

from registry_proxy.errors import TierFailed
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Grid, Span
from registry_proxy.telemetry.mean import Mean
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.tiers import tree
from registry_proxy.tiers.unjoined import Unjoined

_log = structlog.get_logger()
T = TypeVar("T")

_LOOK: Final = 1.0
"""Seconds that a reader waits for a look-up: its headers have to go out. It goes on for those who ask later."""

_BACK_OFF: Final = 30.0
"""Seconds between two tries of a tier that rests, and for which a miss is remembered."""

_REMEMBERED: Final = 4096
_THREADS: Final = 8
_HUNG: Final = 16

_GONE: Final = frozenset({errno.ENOTCONN, errno.ENODEV, errno.ECONNABORTED, errno.ENXIO})
"""What calls say once the program behind a mount is dead. Anything else is about the one file."""


class MountedTier:
    """A tier below ``path``. ``chunk_size``: bytes of the chunks looked for where a blob was published as grafts;
    ``time_limit``: seconds for each call; ``clock``: seconds, monotonic."""

    def __init__(
        self,
        name: str,
        path: Path,
        time_limit: float,
        chunk_size: int,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._path = str(path)
        self._limit = time_limit
        self._chunk_size = chunk_size
        self._metrics = metrics
        self._clock = clock
        self._threads = Unjoined(name, _THREADS, _THREADS + _HUNG)
        self._missing: OrderedDict[Digest, float] = OrderedDict()  # until when
        self._counts = {"hit": 0, "miss": 0, "failure": 0}
        self._bytes = 0
        self._calls = Mean()
        self._trouble: str | None = None
        self._next_try = 0.0
        self._trying: asyncio.Task[None] | None = None
        metrics.tier_up(name, up=True)

    # --- reading -------------------------------------------------------------------------------------------------------

    async def find(self, digest: Digest, size: int) -> "MountedBlob | None":
        """The blob, if it is here with that size; see ``stack.Tier``."""
        if not self._usable() or size == 0:
            return None
        if self._clock() < self._missing.get(digest, 0.0):
            self._counts["miss"] += 1
            return None
        grid = Grid(size, self._chunk_size)
        try:
            found = await self.call(
                lambda: tree.open_blob(self._path, digest, grid), min(_LOOK, self._limit), self._too_late
            )
        except TierFailed:
            if self._trouble is None:
                self._miss(digest, self._clock() + _BACK_OFF)
            return None
        if found is None:
            self._counts["miss"] += 1
            self._miss(digest, self._clock() + _BACK_OFF)
            return None
        self._counts["hit"] += 1
        return MountedBlob(self, digest, found)

    async def call(
        self, function: Callable[[], T], limit: float, late: Callable[[T | Exception], None] = lambda _: None
    ) -> T:
        """What a call on the file system gives, within ``limit`` seconds; raises TierFailed. ``late``: as for ``Unjoined.run``."""
        began = time.perf_counter()

        def returned(result: T | Exception) -> None:
            self._answered(result)
            late(result)

        try:
            result = await self._threads.run(function, limit, returned)
        except TimeoutError:
            self._rest("timeout", f"no answer within {limit:g} s")
            raise TierFailed(f"{self._path}: no answer within {limit:g} s") from None
        except OSError as error:
            if error.errno in _GONE:
                self._rest("gone", str(error.strerror))
            else:
                self._failed("error")
                _log.warning("tier.failed", tier=self.name, path=self._path, error=str(error))
            raise TierFailed(f"{self._path}: {error.strerror}") from error
        self._took(time.perf_counter() - began)
        return result

    async def read(self, digest: Digest, opened: tree.TreeBlob, span: Span) -> bytes:
        """Bytes of an open blob; raises TierFailed, after which the blob is not found for a while."""
        try:
            data = await self.call(lambda: opened.read(span), self._limit)
        except TierFailed:
            self._miss(digest, self._clock() + _BACK_OFF)
            raise
        self._bytes += len(data)
        return data

    def leave(self, function: Callable[[], object]) -> None:
        """Have something closed that nobody waits for."""
        self._threads.leave(function)

    # --- what is known of the blobs ---------------------------------------------------------------------------------------

    def reject(self, digest: Digest) -> None:
        """The blob's bytes are not those of its digest: never find it again."""
        self._miss(digest, float("inf"))
        self._failed("corrupt")
        _log.error("tier.corrupt", tier=self.name, path=self._path, digest=str(digest))

    def _miss(self, digest: Digest, until: float) -> None:
        self._missing[digest] = max(until, self._missing.pop(digest, 0.0))
        if len(self._missing) > _REMEMBERED:
            self._missing.popitem(last=False)

    # --- whether it works -------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, object]:
        """What ``/stats`` shows; ``seconds``: of a call on the file system, on average."""
        return {
            "name": self.name,
            "path": self._path,
            "state": "works" if self._trouble is None else f"rests: {self._trouble}",
            **self._counts,
            "bytes": self._bytes,
            "seconds": self._calls.value,
            "hung": self._threads.hung,
        }

    async def probe(self) -> str | None:
        """None if the mount answers and has a tree of blobs, else what is wrong."""
        try:
            await self.call(lambda: tree.look(self._path), self._limit)
        except TierFailed as error:
            return str(error)
        return None

    async def close(self) -> None:
        """Stop trying. Threads that hang are left alone."""
        if self._trying is not None:
            self._trying.cancel()
            await asyncio.gather(self._trying, return_exceptions=True)
        self._threads.close()

    def _usable(self) -> bool:
        if self._trouble is None:
            return True
        if self._clock() >= self._next_try and (self._trying is None or self._trying.done()):
            self._next_try = self._clock() + _BACK_OFF
            self._trying = asyncio.create_task(self._try(), name=f"{self.name} probe")
        return False

    async def _try(self) -> None:
        if await self.probe() is None:
            self._works()

    def _rest(self, kind: str, trouble: str) -> None:
        self._failed(kind)
        self._next_try = self._clock() + _BACK_OFF
        if self._trouble is None:
            _log.warning("tier.rests", tier=self.name, path=self._path, reason=trouble)
            self._metrics.tier_up(self.name, up=False)
        self._trouble = trouble

    def _failed(self, kind: str) -> None:
        self._counts["failure"] += 1
        self._metrics.tier_failed(self.name, kind)

    def _took(self, seconds: float) -> None:
        self._calls.add(seconds)
        self._metrics.tier_latency(self.name, seconds)

    def _works(self) -> None:
        if self._trouble is not None:
            _log.info("tier.works", tier=self.name, path=self._path)
            self._metrics.tier_up(self.name, up=True)
        self._trouble = None

    def _answered(self, result: object) -> None:
        """A call that was given up on has returned: the mount answers, unless it says that nobody is there."""
        if not (isinstance(result, OSError) and result.errno in _GONE):
            self._works()

    def _too_late(self, result: tree.TreeBlob | Exception | None) -> None:
        if result is not None and not isinstance(result, Exception):
            self.leave(result.close)


class MountedBlob:
    """One blob, open for one reader: a ``stack.TierBlob``."""

    def __init__(self, tier: MountedTier, digest: Digest, opened: tree.TreeBlob) -> None:
        self.tier = tier.name
        self._tier = tier
        self._digest = digest
        self._opened = opened

    async def read(self, span: Span) -> bytes:
        """Exactly these bytes, within the time limit; raises TierFailed."""
        return await self._tier.read(self._digest, self._opened, span)

    def reject(self) -> None:
        """Its bytes are not those of its digest."""
        self._tier.reject(self._digest)

    def close(self) -> None:
        """Give it back: a thread closes it, since that may hang too."""
        self._tier.leave(self._opened.close)
