"""Chunks from parent instances, as objects that the Squids on the way keep (docs/architecture.md, "Chunk objects").

=====================  ============================================================================================
the parent says        it is
=====================  ============================================================================================
200, right bytes       the chunk
200, wrong bytes       asked for again past the cache, by the next forward proxy, at last straight; then trouble
429                    its own flight has not reached the chunk: waited for within patience, then NotSoon
404                    not for everybody, or unknown: the next source, and for a minute no question about this blob
508, 5xx, no answer    trouble: the next parent, then the next source
=====================  ============================================================================================
"""

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import structlog

from registry_proxy.errors import BlobUnknown, NotSoon, RegistryProxyError, Trouble, UpstreamBroken, UpstreamFailed
from registry_proxy.net.forward import Fetched, ForwardProxies
from registry_proxy.net.hops import via
from registry_proxy.net.slots import Slots
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunk_objects import NAMESPACE, REPOSITORY, ChunkHashes, ChunkName, parse_repr_digest
from registry_proxy.plan.chunks import Grid, Span
from registry_proxy.plan.forward_proxies import score
from registry_proxy.plan.refusals import parse_retry_after
from registry_proxy.sources.base import BlobPlace, Urgency
from registry_proxy.sources.chunk_lists import ChunkLists, Shunned
from registry_proxy.telemetry.metrics import Metrics

_log = structlog.get_logger()

_PARALLEL = 4
"""Chunks of one run asked for at a time."""

_SHUN = 60.0
"""Seconds for which a blob that a parent does not have is not asked for."""

_DOUBT = 600.0
"""Seconds for which a blob that turned out wrong is not asked of a parent: a cache on the way may keep what was wrong of it."""

_ANSWERS = frozenset({200, 404, 410, 429})


class ParentSource:
    """Parents as one source; see ``sources.base.Source``.

    ``urls``: of the parents, which share the chunks; ``may_share``: whether a blob is for everybody; ``identity``: this instance in
    ``Via``; ``patience``: seconds to wait for a parent that has not got a chunk yet; ``connections``: requests at a time.
    """

    name = "parent"

    def __init__(
        self,
        urls: Sequence[str],
        ways: ForwardProxies,
        lists: ChunkLists,
        *,
        chunk_size: int,
        patience: float,
        connections: int,
        identity: str,
        may_share: Callable[[BlobPlace], bool],
        metrics: Metrics,
    ) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._ways = ways
        self._lists = lists
        self._chunk_size = chunk_size
        self._patience = patience
        self._slots = Slots(connections)
        self._identity = identity
        self._may_share = may_share
        self._metrics = metrics
        self._shunned: Shunned[Digest] = Shunned()

    def doubt(self, digest: Digest) -> None:
        """What was put together of this blob, perhaps from a parent, was wrong."""
        self._shunned.add(digest, _DOUBT)

    @asynccontextmanager
    async def open(
        self, place: BlobPlace, span: Span | None, size: int | None, urgency: Urgency
    ) -> AsyncIterator["ParentDelivery"]:
        """Ask for ``span``, which begins with a chunk, of a blob of ``size`` bytes; see ``sources.base.Source``.

        Raises on entry, after the first chunk was asked for: BlobUnknown, NotSoon, Trouble.
        """
        if span is None or size is None or span.start % self._chunk_size:
            raise UpstreamBroken("a parent has chunks, not streams")
        if not self._may_share(place):
            raise BlobUnknown(f"{place.repository} is not for everybody: no parent is asked")
        if place.digest in self._shunned:
            raise BlobUnknown(f"no parent is asked for {place.digest} for a while")
        grid = Grid(size, self._chunk_size)
        delivery = ParentDelivery(span, size, grid, lambda index: self._chunk(place, grid, index, urgency))
        try:
            await delivery.begin()
            yield delivery
        finally:
            await delivery.close()

    async def _chunk(self, place: BlobPlace, grid: Grid, index: int, urgency: Urgency) -> bytes:
        """One chunk, waited for if need be; raises BlobUnknown, NotSoon, Trouble."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._patience
        while True:
            answer = await self._asked(place, grid, index, urgency)
            if answer.status == 200:
                self._metrics.fetched(self.name, len(answer.body))
                return answer.body
            if answer.status != 429:
                self._shunned.add(place.digest, _SHUN)
                said = answer.body[:160].decode(errors="replace")  # another chunk size, say
                _log.info("parent.has_not", digest=str(place.digest), chunk=index, said=said)
                raise BlobUnknown(f"{self.name}: no chunk {index} of {place.digest} for everybody")
            wait = parse_retry_after(answer.headers.get("Retry-After"), datetime.now(UTC)) or 1.0
            wait *= 1 + random.random() / 4  # those who were told so together shall not come back together
            if now() + wait > deadline:
                raise NotSoon(f"{self.name}: chunk {index} of {place.digest} is on its way", retry_after=wait)
            await asyncio.sleep(wait)

    async def _asked(self, place: BlobPlace, grid: Grid, index: int, urgency: Urgency) -> Fetched:
        """What the first parent that is of use says about a chunk; each chunk has an order of parents of its own."""
        name = ChunkName(place.digest, grid.chunk, index)
        key = f"{place.digest.hex}/{index}".encode()
        headers = {NAMESPACE: place.upstream, REPOSITORY: place.repository, "Via": via(self._identity)}
        said: RegistryProxyError | None = None

        async def check(answer: Fetched) -> None:
            if answer.status == 200:
                await self._check(place, grid, index, answer)

        for url in sorted(self._urls, key=lambda url: score(url, key), reverse=True):
            try:
                async with self._slots.slot(urgency):
                    answer = await self._ways.get(url + name.path, check, limit=grid.chunk, key=key, headers=headers)
            except Trouble as error:
                self._metrics.upstream_error(self.name, type(error).__name__)
                said = error
                continue
            self._metrics.upstream_latency(self.name, answer.seconds)
            if answer.status in _ANSWERS:
                return answer
            said = UpstreamFailed(f"{url} answers {answer.status}")
        raise said or UpstreamFailed("no parent is configured")

    async def _check(self, place: BlobPlace, grid: Grid, index: int, answer: Fetched) -> None:
        """Raise UpstreamBroken unless these are the bytes of the chunk, as far as that can be known."""
        found = await asyncio.to_thread(lambda: hashlib.sha256(answer.body).digest())
        if len(answer.body) != grid.length_of(index):
            raise UpstreamBroken(f"{len(answer.body)} bytes as chunk {index} of {place.digest}")
        if found != parse_repr_digest(answer.headers.get("Repr-Digest", "")):
            raise UpstreamBroken(f"chunk {index} of {place.digest} is not what its Repr-Digest says")
        known: ChunkHashes | None = await self._lists.get(place, grid)
        if known is not None and found != known.of(index):
            raise UpstreamBroken(f"chunk {index} of {place.digest} is not the one that the parent has verified")


class ParentDelivery:
    """The chunks of a run, some of them under way at once; see ``sources.base.Delivery``."""

    ranged = True
    proves = False
    waited = 0.0
    origin = "parent"

    def __init__(self, span: Span, total: int, grid: Grid, fetch: Callable[[int], Coroutine[Any, Any, bytes]]) -> None:
        self.span = span
        self.total: int | None = total
        self._fetch = fetch
        self._indexes = iter(grid.touched(span))
        self._under_way: deque[asyncio.Task[bytes]] = deque()

    async def begin(self) -> None:
        """Wait for the first chunk; raises what fetching it raises."""
        for _ in range(_PARALLEL):
            self._start_next()
        if self._under_way:
            await asyncio.wait({self._under_way[0]})
            self._under_way[0].result()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The chunks in order; raises Trouble and NotSoon."""
        while self._under_way:
            try:
                data = await self._under_way[0]
            except BlobUnknown as error:
                raise UpstreamBroken(f"a parent had chunks of this blob and has no more: {error}") from error
            del self._under_way[0]
            self._start_next()
            yield data

    async def close(self) -> None:
        """Give up what is still under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _start_next(self) -> None:
        index = next(self._indexes, None)
        if index is not None:
            self._under_way.append(asyncio.ensure_future(self._fetch(index)))
