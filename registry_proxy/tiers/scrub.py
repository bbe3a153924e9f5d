"""Looking for silent decay and leftovers: every chunk is hashed, what is wrong is removed.

Chunk files never change and unlinking one is always safe, so this works beside a running instance: it sees the file gone and
fetches the chunk again. Nothing is read through the instance's open files.
"""

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Grid
from registry_proxy.tiers import chunkfile, walk
from registry_proxy.tiers.layout import (
    LZ4_SUFFIX,
    ChunkName,
    Layout,
    parse_blob_name,
    parse_chunk_name,
    parse_group_name,
)
from registry_proxy.tiers.openfiles import open_as_chunk
from registry_proxy.tiers.schema import VerifiedBlob

_log = structlog.get_logger()

_LEFTOVER_AGE: Final = 3600.0

FindVerified = Callable[[Digest], Awaitable[VerifiedBlob | None]]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a scrub is. ``chunks``, ``bytes``: hashed so far; ``wrong``: chunks removed; ``leftovers``: other things removed."""

    chunks: int = 0
    bytes: int = 0
    wrong: int = 0
    leftovers: int = 0


async def _nobody(_: Digest) -> None:
    return None


async def scrub(
    root: Path, chunk_size: int, verified: FindVerified = _nobody, pause: float = 0.0
) -> AsyncGenerator[Progress, None]:
    """Hash what is stored below ``root``; yields how far it is after every chunk, and at the end.

    ``verified``: what is known of a blob that was verified; its chunks must also be those. ``pause``: seconds to rest after each
    chunk. Close the iterator to stop.
    """
    layout = Layout(root)
    done = Progress(leftovers=await asyncio.to_thread(_remove_leftovers, layout, time.time() - _LEFTOVER_AGE))
    for shard in await asyncio.to_thread(walk.shards, layout):
        files, leftovers = await asyncio.to_thread(_sort_out, layout, shard)
        done = replace(done, leftovers=done.leftovers + leftovers)
        for digest, name in files:
            known = await verified(digest)
            length = await asyncio.to_thread(_scrub_chunk, layout, digest, name, chunk_size, known)
            wrong = length is None
            if wrong:
                _log.error("store.chunk_wrong", digest=str(digest), chunk=name.index)
            done = replace(done, chunks=done.chunks + 1, bytes=done.bytes + (length or 0), wrong=done.wrong + wrong)
            yield done
            await asyncio.sleep(pause)
        await asyncio.to_thread(_remove_empty, layout.chunks / shard)
    yield done


def _remove_leftovers(layout: Layout, before: float) -> int:
    """Remove temporary files that no running write can own any more, and stray files; their number."""
    count = 0
    for entry in list(walk.entries(layout.temporary)):
        with contextlib.suppress(OSError):
            if entry.stat(follow_symlinks=False).st_mtime < before:
                walk.remove_entry(entry)
                count += 1
    for entry in list(walk.entries(layout.chunks)):
        if not entry.is_dir(follow_symlinks=False):
            walk.remove_entry(entry)
            count += 1
    return count


_Found = list[tuple[Digest, ChunkName]]
_Strangers = list[os.DirEntry[str]]


def _sort_out(layout: Layout, shard: str) -> tuple[_Found, int]:
    """The chunk files below one shard, and how many things were removed because they are none."""
    files: _Found = []
    strangers: _Strangers = []
    for blob in walk.entries(layout.chunks / shard):
        digest = parse_blob_name(blob.name, shard)
        if digest is not None and blob.is_dir(follow_symlinks=False):
            _sort_blob(digest, Path(blob.path), files, strangers)
        else:
            strangers.append(blob)
    for entry in strangers:
        walk.remove_entry(entry)
    return files, len(strangers)


def _sort_blob(digest: Digest, directory: Path, files: _Found, strangers: _Strangers) -> None:
    for group in walk.entries(directory):
        number = parse_group_name(group.name)
        if number is None or not group.is_dir(follow_symlinks=False):
            strangers.append(group)
            continue
        for entry in walk.entries(Path(group.path)):
            name = parse_chunk_name(entry.name, number)
            if name is not None and entry.is_file(follow_symlinks=False):
                files.append((digest, name))
            else:
                strangers.append(entry)


def _scrub_chunk(
    layout: Layout, digest: Digest, name: ChunkName, chunk_size: int, known: VerifiedBlob | None
) -> int | None:
    """The chunk's length if its file is right (0 if it is gone by now); removes the file otherwise."""
    path = layout.chunk(digest, name.index) + (LZ4_SUFFIX if name.compressed else "")
    try:
        length = _hash(path, digest, name, chunk_size, known)
    except FileNotFoundError:
        return 0
    if length is None:
        Path(path).unlink(missing_ok=True)
    return length


def _hash(path: str, digest: Digest, name: ChunkName, chunk_size: int, known: VerifiedBlob | None) -> int | None:
    length = _claimed_length(path, name)
    if length is None or not 0 < length <= chunk_size:
        return None
    opened = open_as_chunk(path, (digest, name.index), length, name.compressed)
    if opened is None:
        return None
    try:
        fits = known is None or known.chunk_size != chunk_size or _is_known(known, name.index, length, opened.trailer())
        return length if fits and opened.is_right() else None
    finally:
        opened.close_if_done()


def _claimed_length(path: str, name: ChunkName) -> int | None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None
        if name.compressed:
            return chunkfile.plain_length(descriptor, found.st_size)
        return found.st_size - chunkfile.TRAILER
    finally:
        os.close(descriptor)


def _is_known(known: VerifiedBlob, index: int, length: int, sha256: bytes) -> bool:
    grid = Grid(known.size, known.chunk_size)
    return index < grid.count and length == grid.length_of(index) and sha256 == known.chunk_hash(index)


def _remove_empty(directory: Path) -> None:
    """Remove the directories below and including this one that have nothing in them."""
    for path, _, _ in os.walk(directory, topdown=False):
        with contextlib.suppress(OSError):
            Path(path).rmdir()
