"""Where fetched chunks land: committed to the store, and the blob verified before its last chunk becomes visible.

The chunk that would complete a blob is hashed together with all the others *before* it is committed or announced, so a
complete blob is a verified one (docs/architecture.md, I4); only a crash in between leaves a complete blob to be verified
by its next reader. Chunks are taken one at a time, so that two flights cannot both believe the other one brings the end.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from registry_proxy.errors import ContentCorrupt, StoreTrouble
from registry_proxy.oci.digest import Digest, Hasher
from registry_proxy.plan.chunks import Grid
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.tiers.base import Chunk, MemoryChunk
from registry_proxy.tiers.records import Records
from registry_proxy.tiers.schema import VerifiedBlob
from registry_proxy.tiers.store import ChunkStore, Room, StoredChunk

_log = structlog.get_logger()

_CATCH_UP = 2
"""Chunks taken into the running hash beside each one that lands: enough to reach the front again, too few to hold it up."""


class BlobLanding:
    """Commits the chunks of one blob. ``verified``: the digest of all its bytes was right, and the hash of each chunk is known.

    ``announce`` is called with the digest when that becomes so.
    """

    def __init__(
        self,
        digest: Digest,
        grid: Grid,
        store: ChunkStore,
        records: Records,
        metrics: Metrics,
        known: VerifiedBlob | None,
        announce: Callable[[Digest], None] = lambda _: None,
    ) -> None:
        self._announce = announce
        self.digest = digest
        self.grid = grid
        self._store = store
        self._records = records
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._hasher = digest.hasher()
        self._hashed = 0  # chunks [0, _hashed) are in the running hash
        self._sums: dict[int, bytes] = {}  # sha-256 of the chunks that the running hash has seen, or will see
        self._known = known if known is not None and (known.size, known.chunk_size) == (grid.size, grid.chunk) else None

    @property
    def verified(self) -> bool:
        """True if every chunk can be told right from wrong."""
        return self._known is not None

    def are_right(self, sums: Mapping[int, bytes]) -> bool:
        """True if chunks with these sha-256 are those of the verified blob."""
        known = self._known
        return known is not None and all(known.chunk_hash(index) == found for index, found in sums.items())

    async def land(self, index: int, data: bytearray, room: Room | None, origin: str) -> Chunk:
        """Commit one chunk; returns it open. Without room, or where the store fails, it stays in memory only.

        Raises ContentCorrupt if the bytes are not those of the digest. The whole blob is dropped then; of one that was verified
        before, only this chunk is refused.
        """
        async with self._lock:
            right = False
            if self._known is not None:
                await self._compare(self._known, index, data, origin)
            else:
                if index < self._hashed:  # evicted and fetched again: what was hashed may not be what is stored now
                    self._restart_hash()
                right = self._completes(index) and await self._verify(index, data, origin)
            chunk = await self._commit(index, data, room)
            try:
                if self._known is None:
                    self._sums[index] = await sha256_of(chunk)
                if self._known is None and not right:
                    await self._catch_up()
                if right:
                    await self._remember(b"".join(self._sums[at] for at in range(self.grid.count)))
            except BaseException:
                chunk.close()
                self._restart_hash()  # it may have the chunk, and its sha-256 is not known
                raise
            return chunk

    async def verify_stored(self) -> None:
        """Verify a blob that is complete but, after a crash, not known to be right; raises ContentCorrupt."""
        async with self._lock:
            if self.verified or self._store.missing(self.digest, self.grid):
                return
            found = await self._store.hash_blob(self.digest, self.grid)
            hashes = await self._store.chunk_hashes(self.digest, self.grid)
            if found is None or hashes is None:
                return  # a chunk was dropped meanwhile: not complete after all
            if found != self.digest:
                await self._reject("the store")
            await self._remember(hashes)

    async def drop_chunks(self, indexes: Sequence[int]) -> bool:
        """Drop chunks whose bytes contradict the blob's table of contents; False if all of it has been verified."""
        async with self._lock:
            if self.verified:
                return False
            if any(index < self._hashed for index in indexes):
                self._restart_hash()
            for index in indexes:
                self._sums.pop(index, None)
                await self._store.drop_chunk(self.digest, index)
            return True

    async def reject(self) -> None:
        """A reader has hashed every byte and found it wrong; raises ContentCorrupt."""
        async with self._lock:
            await self._reject("a reader's own hash")

    async def accept(self, hashes: bytes) -> None:
        """A reader has hashed every byte and found it right; ``hashes``: the sha-256 of each chunk, in order."""
        async with self._lock:
            if not self.verified:
                await self._remember(hashes)

    def _completes(self, index: int) -> bool:
        """True if nothing but this chunk is missing, in the store or in the running hash."""
        missing = self._store.missing(self.digest, self.grid) - (not self._store.has(self.digest, index))
        return missing <= 0 or index == self._hashed == self.grid.count - 1

    async def _verify(self, index: int, data: bytearray, origin: str) -> bool:
        """Hash what the running hash has not seen, this chunk in its place. False if a chunk is gone; raises ContentCorrupt."""
        while self._hashed < self.grid.count:
            if self._hashed == index:
                await self._hash(partial(self._hasher.update, data))
                continue
            if not await self._hash_stored():
                return False
        if self._hasher.hexdigest() != self.digest.hex:
            await self._reject(origin)
        self._metrics.verified(right=True)
        _log.debug("blob.verified", digest=str(self.digest), bytes=self.grid.size)
        return True

    async def _catch_up(self) -> None:
        """Hash a few chunks that landed before their turn, as neighbouring flights overlap: the rest is less to do at the end."""
        for _ in range(_CATCH_UP):
            if self._hashed >= self.grid.count - 1 or not self._store.has(self.digest, self._hashed):
                return
            if not await self._hash_stored():
                return

    async def _hash_stored(self) -> bool:
        """Take the next chunk into the running hash from the store; False if it is not there."""
        stored = await self._store.load_chunk(self.digest, self.grid, self._hashed)
        if stored is None:
            return False
        with contextlib.closing(stored):
            self._sums[self._hashed] = stored.sha256
            await self._hash(partial(feed, self._hasher, stored))
        return True

    async def _hash(self, work: Callable[[], None]) -> None:
        """Take the next chunk into the running hash, which starts anew if that is interrupted."""
        try:
            await asyncio.to_thread(work)
        except BaseException:
            self._restart_hash()
            raise
        self._hashed += 1

    def _restart_hash(self) -> None:
        self._hasher = self.digest.hasher()
        self._hashed = 0

    async def _compare(self, known: VerifiedBlob, index: int, data: bytearray, origin: str) -> None:
        """Check a refetched chunk of a verified blob against the hash it had then; raises ContentCorrupt."""
        if await asyncio.to_thread(lambda: hashlib.sha256(data).digest()) == known.chunk_hash(index):
            return
        self._metrics.verified(right=False)
        _log.error("chunk.corrupt", digest=str(self.digest), chunk=index, origin=origin)
        raise ContentCorrupt(f"{origin} sent wrong bytes for chunk {index} of {self.digest}")

    async def _commit(self, index: int, data: bytearray, room: Room | None) -> Chunk:
        """Store the chunk, in the same hop as it enters the running hash where it is next there."""
        hasher = self._hasher if self._known is None and index == self._hashed else None
        if room is None or not self._store.writable:
            if hasher is not None:
                await self._hash(partial(hasher.update, data))
            return MemoryChunk(bytes(data))
        try:
            chunk: Chunk = await self._store.put(self.digest, self.grid, index, data, room, hasher=hasher)
        except StoreTrouble as error:  # the hasher has taken the bytes all the same
            _log.warning("store.failed", error=str(error))
            chunk = MemoryChunk(bytes(data))
        except BaseException:
            self._restart_hash()
            raise
        self._hashed += hasher is not None
        return chunk

    async def _remember(self, hashes: bytes) -> None:
        self._known = VerifiedBlob(size=self.grid.size, chunk_size=self.grid.chunk, chunk_hashes=hashes)
        self._sums.clear()
        await self._records.verified.put(str(self.digest), self._known)
        self._announce(self.digest)

    async def _reject(self, origin: str) -> None:
        self._restart_hash()
        self._sums.clear()
        self._metrics.verified(right=False)
        _log.error("blob.corrupt", digest=str(self.digest), origin=origin, bytes=self.grid.size)
        await self._store.drop(self.digest)
        raise ContentCorrupt(f"what {origin} sent does not hash to {self.digest}; all of it was dropped")


def feed(hasher: Hasher, chunk: Chunk) -> None:
    """Hash a whole chunk. Takes a while: call it in a thread."""
    hasher.update(chunk.read(0, chunk.length))


async def sha256_of(chunk: Chunk) -> bytes:
    """The sha-256 of a chunk: what the store keeps of its own, else computed in a thread."""
    if isinstance(chunk, StoredChunk):
        return chunk.sha256
    return await asyncio.to_thread(lambda: hashlib.sha256(chunk.read(0, chunk.length)).digest())
