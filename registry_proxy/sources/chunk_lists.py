"""What a parent has verified: the hashes of a blob's chunks, had from the parent straight and not through a Squid.

A Squid that keeps wrong bytes with a Repr-Digest that fits them is caught by nothing else before the whole blob is hashed.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from registry_proxy.errors import RegistryProxyError, UpstreamBroken
from registry_proxy.net.forward import Fetched, ForwardProxies
from registry_proxy.net.hops import via
from registry_proxy.net.single import SingleFlight
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.foreign import Unreadable, decode
from registry_proxy.plan.chunk_objects import NAMESPACE, REPOSITORY, ChunkHashes, ChunkName
from registry_proxy.plan.chunks import Grid
from registry_proxy.sources.base import BlobPlace

_PATIENCE = 1.0
"""Seconds that chunks wait for the list."""

_AGAIN = 30.0
"""Seconds after which a list that could not be had is asked for again."""

_KEPT = 32 << 20
"""Bytes of lists kept."""

_MOST = 4096
_LIST_LIMIT = 16 << 20

K = TypeVar("K", bound=Hashable)


class Shunned(Generic[K]):
    """What is not to be asked for until a time has come. ``clock``: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[K, float] = {}

    def add(self, key: K, seconds: float) -> None:
        """Not for so many seconds."""
        if len(self._until) >= _MOST:
            self._until.clear()
        self._until[key] = self._clock() + seconds

    def __contains__(self, key: K) -> bool:
        return self._until.get(key, 0.0) > self._clock()


class ChunkLists:
    """The lists of verified blobs. ``urls``: of the parents; ``straight``: the way to them without a forward proxy."""

    def __init__(self, urls: Sequence[str], straight: ForwardProxies, identity: str) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._straight = straight
        self._identity = identity
        self._lists: OrderedDict[Digest, ChunkHashes] = OrderedDict()
        self._bytes = 0
        self._not_now: Shunned[Digest] = Shunned()
        self._asking: SingleFlight[Digest, ChunkHashes | None] = SingleFlight()

    async def get(self, place: BlobPlace, grid: Grid) -> ChunkHashes | None:
        """The hashes of a blob's chunks, if a parent has verified it and says so within a second."""
        found = self._lists.get(place.digest)
        if found is None and place.digest not in self._not_now:
            try:
                async with asyncio.timeout(_PATIENCE):
                    found = await self._asking.do(place.digest, lambda: self._ask(place, grid))
            except TimeoutError:
                found = None
            if found is None:
                self._not_now.add(place.digest, _AGAIN)
        return found if found is not None and found.fits(grid.size, grid.chunk) else None

    async def _ask(self, place: BlobPlace, grid: Grid) -> ChunkHashes | None:
        path = ChunkName(place.digest, grid.chunk, None).path
        headers = {NAMESPACE: place.upstream, REPOSITORY: place.repository, "Via": via(self._identity)}
        for url in self._urls:
            try:
                answer = await self._straight.get(url + path, _check, limit=_LIST_LIMIT, headers=headers)
            except RegistryProxyError:
                continue
            if answer.status == 200:
                return self._keep(place.digest, _hashes(answer.body))
        return None

    def _keep(self, digest: Digest, hashes: ChunkHashes) -> ChunkHashes:
        self._lists[digest] = hashes
        self._bytes += len(hashes.chunk_hashes)
        while self._bytes > _KEPT and len(self._lists) > 1:
            self._bytes -= len(self._lists.popitem(last=False)[1].chunk_hashes)
        return hashes


async def _check(answer: Fetched) -> None:
    if answer.status == 200:
        _hashes(answer.body)


def _hashes(body: bytes) -> ChunkHashes:
    try:
        return decode(body, ChunkHashes)
    except Unreadable as error:
        raise UpstreamBroken(f"not a list of chunk hashes: {error}") from error
