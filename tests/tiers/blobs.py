"""Blobs and stores for the tests of the tiers: small chunks, known bytes."""

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from registry_proxy import config
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Grid
from registry_proxy.tiers.records import Records
from registry_proxy.tiers.store import ChunkStore, open_store

CHUNK = 16 << 10


@dataclass(frozen=True)
class Blob:
    """Known bytes under their digest."""

    data: bytes
    chunk: int = CHUNK
    algorithm: str = "sha256"

    @property
    def digest(self) -> Digest:
        """The digest of the bytes."""
        return Digest.of(self.data, self.algorithm)

    @property
    def grid(self) -> Grid:
        """How the tests' store cuts it."""
        return Grid(len(self.data), self.chunk)

    def part(self, index: int) -> bytes:
        """The bytes of one chunk."""
        span = self.grid.span_of(index)
        return self.data[span.start : span.stop]


def noise(size: int, seed: int = 0) -> Blob:
    """A blob that cannot be compressed."""
    return Blob(random.Random(seed).randbytes(size))


def text(size: int, seed: int = 0) -> Blob:
    """A blob that compresses well."""
    line = f"line of a file in layer {seed}\n".encode()
    return Blob((line * (size // len(line) + 1))[:size])


def settings(path: Path, limit: int | None = 64 << 20, chunk: int = CHUNK) -> config.Store:
    """The configuration of a small store."""
    return config.Store(path=path, limit=limit, chunk_size=chunk)


@asynccontextmanager
async def running(path: Path, limit: int | None = 64 << 20, chunk: int = CHUNK) -> AsyncIterator[ChunkStore]:
    """A store whose accounts are loaded."""
    async with both(path, limit, chunk) as (store, _):
        yield store


@asynccontextmanager
async def both(
    path: Path, limit: int | None = 64 << 20, chunk: int = CHUNK
) -> AsyncIterator[tuple[ChunkStore, Records]]:
    """A store whose accounts are loaded, and its records."""
    async with open_store(settings(path, limit, chunk)) as (store, records):
        await store.counted()
        yield store, records


async def keep(store: ChunkStore, blob: Blob, *indexes: int) -> None:
    """Store some chunks of a blob (all of them if none is named)."""
    for index in indexes or range(blob.grid.count):
        room = await store.reserve(len(blob.part(index)), blob.digest)
        assert room is not None
        try:
            (await store.put(blob.digest, blob.grid, index, blob.part(index), room)).close()
        finally:
            room.release()


async def loaded(store: ChunkStore, blob: Blob, index: int) -> bytes | None:
    """The bytes of a chunk as the store gives them, or None for a miss."""
    chunk = await store.load_chunk(blob.digest, blob.grid, index)
    if chunk is None:
        return None
    try:
        return chunk.read(0, chunk.length)
    finally:
        chunk.close()


def files(path: Path) -> dict[str, Path]:
    """The chunk files of a store, by their place below ``chunks``."""
    top = path / "chunks"
    return {str(file.relative_to(top)): file for file in top.rglob("*") if file.is_file()}


def disk_use(path: Path) -> int:
    """Bytes that the files of chunks take, half-written and half-removed ones included.

    The store may be at work: what vanishes meanwhile counts for nothing, what is moved counts once.
    """
    sizes: dict[int, int] = {}
    for name in ("chunks", "tmp"):
        for directory, _, names in os.walk(path / name):
            for file in names:
                with suppress(FileNotFoundError):
                    found = Path(directory, file).lstat()
                    sizes[found.st_ino] = found.st_size
    return sum(sizes.values())
