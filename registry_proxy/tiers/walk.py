"""Looking at the store's files, and taking them away: all of it blocks, so it runs in threads.

A directory is taken away by moving it to ``tmp/`` first: from one moment to the next nobody finds any of its chunks, and what a
killed process leaves is swept at the next start.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from registry_proxy.oci.digest import Digest
from registry_proxy.tiers.chunkfile import cost
from registry_proxy.tiers.layout import (
    GROUP,
    LZ4_SUFFIX,
    GroupKey,
    Layout,
    parse_blob_name,
    parse_chunk_name,
    parse_group_name,
)


@dataclass(frozen=True, slots=True)
class GroupFound:
    """What a group's directory holds. ``bytes``: on disk; ``mask``: a bit per chunk; ``newest``: seconds since the epoch."""

    key: GroupKey
    bytes: int
    mask: int
    newest: float


def look_at_group(layout: Layout, key: GroupKey) -> GroupFound:
    """The chunks of one group by name and size; nothing is opened. A directory that is not there is empty."""
    size, mask, newest = 0, 0, 0.0
    for entry in entries(Path(layout.group(key))):
        name = parse_chunk_name(entry.name, key.number)
        with contextlib.suppress(FileNotFoundError):
            if name is not None and entry.is_file(follow_symlinks=False):
                found = entry.stat(follow_symlinks=False)
                size += cost(found.st_size)
                mask |= 1 << name.index % GROUP
                newest = max(newest, found.st_mtime)
    return GroupFound(key, size, mask, newest)


def shards(layout: Layout) -> list[str]:
    """The names of the directories that blobs are spread over."""
    return sorted(entry.name for entry in entries(layout.chunks))


def groups(layout: Layout, shard: str) -> list[GroupKey]:
    """The groups that have a directory below one shard."""
    found = []
    for blob in entries(layout.chunks / shard):
        digest = parse_blob_name(blob.name, shard)
        if digest is not None:
            found += groups_of(layout, digest)
    return found


def groups_of(layout: Layout, digest: Digest) -> list[GroupKey]:
    """The groups that have a directory below one blob's."""
    numbers = (parse_group_name(entry.name) for entry in entries(Path(layout.blob(digest))))
    return [GroupKey(digest, number) for number in numbers if number is not None]


def entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    """What is in a directory; nothing if it is not there or is no directory."""
    try:
        with os.scandir(directory) as found:
            yield from found
    except (FileNotFoundError, NotADirectoryError):
        return


def remove_group(layout: Layout, key: GroupKey) -> bool:
    """Take a group's directory away, and its blob's if that is empty then. False if it would not go."""
    gone = _remove(layout, Path(layout.group(key)))
    with contextlib.suppress(OSError):
        Path(layout.blob(key.digest)).rmdir()
    return gone


def remove_blob(layout: Layout, digest: Digest) -> bool:
    """Take a blob's directory away. False if it would not go."""
    return _remove(layout, Path(layout.blob(digest)))


def remove_chunk(layout: Layout, digest: Digest, index: int) -> None:
    """Take one chunk's file away, as far as it will go."""
    path = layout.chunk(digest, index)
    for name in (path, path + LZ4_SUFFIX):
        with contextlib.suppress(OSError):
            Path(name).unlink()


def _remove(layout: Layout, directory: Path) -> bool:
    aside = layout.temporary / f"gone-{uuid4().hex}"
    try:
        directory.rename(aside)
    except FileNotFoundError:
        if not layout.temporary.exists():
            shutil.rmtree(directory, ignore_errors=True)
        return not directory.exists()
    except OSError:  # a full disk may refuse the new name
        shutil.rmtree(directory, ignore_errors=True)
        return not directory.exists()
    shutil.rmtree(aside, ignore_errors=True)
    return not aside.exists()


def sweep(directory: Path) -> None:
    """Remove everything in a directory, as far as it will go."""
    for entry in list(entries(directory)):
        remove_entry(entry)


def remove_entry(entry: os.DirEntry[str]) -> None:
    """Remove a file or a directory with all that is in it, as far as it will go."""
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            Path(entry.path).unlink()
