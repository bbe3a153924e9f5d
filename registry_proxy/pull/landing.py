"""Where fetched chunks land: committed to the store, and the blob verified before its last chunk becomes visible.

The chunk that would complete a blob is hashed together with all the others *before* it is committed or announced, so a
complete blob is a verified one (docs/architecture.md, I4); only a crash in between leaves a complete blob to be verified
by its next reader. Chunks are taken one at a time, so that two flights cannot both believe the other one brings the end.
"""

import asyncio
import hashlib

import structlog

from registry_proxy.errors import ContentCorrupt, StoreTrouble
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Grid
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.tiers.base import Chunk, MemoryChunk
from registry_proxy.tiers.records import Records
from registry_proxy.tiers.schema import VerifiedBlob
from registry_proxy.tiers.store import ChunkStore, Room

_log = structlog.get_logger()
_SHA256 = 32


class BlobLanding:
    """Commits the chunks of one blob. ``verified``: the digest of all its bytes has been seen to be right."""

    def __init__(
        self,
        digest: Digest,
        grid: Grid,
        store: ChunkStore,
        records: Records,
        metrics: Metrics,
        verified: VerifiedBlob | None,
    ) -> None:
        self.digest = digest
        self.grid = grid
        self.verified = verified is not None
        self._store = store
        self._records = records
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._hasher = digest.hasher()
        self._hashed = 0  # chunks [0, _hashed) are in the running hash
        self._use(verified)

    def _use(self, verified: VerifiedBlob | None) -> None:
        fits = verified is not None and verified.chunk_size == self.grid.chunk and verified.size == self.grid.size
        self._hashes = verified.chunk_hashes if verified is not None and fits else b""

    async def land(self, index: int, data: bytearray, room: Room | None, origin: str) -> Chunk:
        """Commit one chunk; returns it open. Without room, or where the store fails, it stays in memory only.

        Raises ContentCorrupt (and drops the whole blob, or this one chunk) if the bytes are not those of the digest.
        """
        async with self._lock:
            if not self.verified:
                await self._follow(index, data)
                if self._completes(index):
                    await self._verify(index, data, origin)
            elif self._hashes:
                await self._compare(index, data, origin)
            chunk = await self._commit(index, data, room)
            try:
                if self.verified and not self._hashes and self._store.missing(self.digest, self.grid) == 0:
                    await self._remember()
            except BaseException:
                chunk.close()
                raise
            return chunk

    async def verify_stored(self) -> None:
        """Verify a blob that is complete but, after a crash, not known to be right; raises ContentCorrupt."""
        async with self._lock:
            if self.verified or self._store.missing(self.digest, self.grid):
                return
            if await self._store.hash_blob(self.digest, self.grid) != self.digest:
                await self._reject("the store")
            self.verified = True
            await self._remember()

    def accept(self) -> None:
        """A reader has hashed every byte and found it right."""
        self.verified = True

    async def reject(self) -> None:
        """A reader has hashed every byte and found it wrong; raises ContentCorrupt."""
        async with self._lock:
            await self._reject("a reader's own hash")

    def _completes(self, index: int) -> bool:
        """True if nothing but this chunk is missing, in the store or in the running hash."""
        last = self.grid.count - 1
        missing = self._store.missing(self.digest, self.grid)
        return missing - (not self._store.has(self.digest, index)) <= 0 or (index == last and self._hashed > last)

    async def _follow(self, index: int, data: bytearray) -> None:
        """Keep the running hash at the front of a sequential stream; other chunks are hashed when the blob completes."""
        if index < self._hashed:  # evicted and fetched again: what was hashed may not be what is stored now
            self._restart_hash()
        if index == self._hashed:
            await asyncio.to_thread(self._hasher.update, data)
            self._hashed += 1

    def _restart_hash(self) -> None:
        self._hasher = self.digest.hasher()
        self._hashed = 0

    async def _verify(self, index: int, data: bytearray, origin: str) -> None:
        """Hash what the running hash has not seen, this chunk in its place; raises ContentCorrupt."""
        at = self._hashed
        while at < self.grid.count:
            if at == index:
                await asyncio.to_thread(self._hasher.update, data)
            else:
                stored = await self._store.load_chunk(self.digest, self.grid, at)
                if stored is None:  # evicted or dropped since it landed: not complete after all
                    return
                try:
                    await asyncio.to_thread(lambda chunk: self._hasher.update(chunk.read(0, chunk.length)), stored)
                finally:
                    stored.close()
            at += 1
            self._hashed = at
        if self._hasher.hexdigest() != self.digest.hex:
            await self._reject(origin)
        self.verified = True
        self._metrics.verified(right=True)
        _log.debug("blob.verified", digest=str(self.digest), bytes=self.grid.size)

    async def _compare(self, index: int, data: bytearray, origin: str) -> None:
        """Check a refetched chunk of a verified blob against the hash it had then; raises ContentCorrupt."""
        expected = self._hashes[index * _SHA256 : (index + 1) * _SHA256]
        if await asyncio.to_thread(lambda: hashlib.sha256(data).digest()) == expected:
            return
        self._metrics.verified(right=False)
        _log.error("chunk.corrupt", digest=str(self.digest), chunk=index, origin=origin)
        raise ContentCorrupt(f"{origin} sent wrong bytes for chunk {index} of {self.digest}")

    async def _commit(self, index: int, data: bytearray, room: Room | None) -> Chunk:
        if room is not None and self._store.writable:
            try:
                return await self._store.put(self.digest, self.grid, index, data, room)
            except StoreTrouble as error:
                _log.warning("store.failed", error=str(error))
        return MemoryChunk(bytes(data))

    async def _remember(self) -> None:
        hashes = await self._store.chunk_hashes(self.digest, self.grid)
        if hashes is not None:
            verified = VerifiedBlob(size=self.grid.size, chunk_size=self.grid.chunk, chunk_hashes=hashes)
            await self._records.verified.put(str(self.digest), verified)
            self._use(verified)

    async def _reject(self, origin: str) -> None:
        self._restart_hash()
        self._metrics.verified(right=False)
        _log.error("blob.corrupt", digest=str(self.digest), origin=origin, bytes=self.grid.size)
        await self._store.drop(self.digest)
        raise ContentCorrupt(f"what {origin} sent does not hash to {self.digest}; all of it was dropped")
