"""Open chunk files: kept open between requests, lent to readers, and trusted only once they were checked.

A file is lent as a ``StoredChunk`` and stays open until the last loan is closed, whatever becomes of its name. Between loans it
is kept open, bounded by count and age. Whether its bytes were checked is remembered by what fstat says of it (inode, size,
change time), so a file that was exchanged or written from outside has to be checked again.
"""

import errno
import os
import stat
from array import array
from collections import OrderedDict
from typing import BinaryIO, Final

from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Grid
from registry_proxy.tiers import chunkfile
from registry_proxy.tiers.accounts import Group
from registry_proxy.tiers.chunkfile import Lz4Chunk, RawChunk
from registry_proxy.tiers.layout import GROUP, LZ4_SUFFIX, GroupKey, Layout

ChunkKey = tuple[Digest, int]

_REMEMBERED_GROUPS: Final = 1 << 16
# O_NONBLOCK: a planted FIFO must not hold up the loop; it means nothing to a regular file
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def identity(found: os.stat_result) -> int:
    """A number that changes when a file is exchanged or written to.

    The change time cannot be set by a program, but moves in steps of some milliseconds (before Linux 6.13); the modification time of a chunk is set to the
    nanosecond when it is written (``tiers.writing``), so that whatever is written in the same step shows.
    """
    return hash((found.st_ino, found.st_size, found.st_ctime_ns, found.st_mtime_ns)) or 1


def written(found: os.stat_result) -> tuple[int, int]:
    """What changes when a file is written to or cut, and not when it is renamed or removed."""
    return found.st_size, found.st_mtime_ns


class OpenFile:
    """One open chunk file. ``key``, ``group``: the chunk it holds; ``checked``: its bytes were found right; ``kept``: it stays
    open without a loan; ``generation``: when it was last looked up, as ``OpenFiles.age`` counts."""

    __slots__ = (
        "checked",
        "content",
        "file",
        "generation",
        "group",
        "identity",
        "kept",
        "key",
        "lendable",
        "loans",
        "size",
        "written",
    )

    def __init__(self, key: ChunkKey, file: BinaryIO, found: os.stat_result, content: RawChunk | Lz4Chunk) -> None:
        self.key = key
        self.file = file
        self.size = found.st_size
        self.identity = identity(found)
        self.written = written(found)
        self.content = content
        self.group = GroupKey.of(*key)
        self.lendable = file if isinstance(content, RawChunk) else None
        self.checked = False
        self.generation = 0
        self.kept = False
        self.loans = 0

    def unchanged(self) -> bool:
        """True if the file is still what was opened and still has a name."""
        found = os.fstat(self.file.fileno())
        return found.st_nlink > 0 and identity(found) == self.identity

    def same_bytes(self) -> bool:
        """True if nobody has written to the file since it was opened; it may have lost its name."""
        return written(os.fstat(self.file.fileno())) == self.written

    def trailer(self) -> bytes:
        """The sha-256 that the file claims for its chunk; raises OSError."""
        return chunkfile.trailer(self.file.fileno(), self.size)

    def is_right(self) -> bool:
        """True if the chunk hashes to the trailer. Takes a while: call it in a thread."""
        try:
            return chunkfile.is_intact(self.content, self.trailer())
        except OSError:
            return False

    def close_if_done(self) -> None:
        """Close the file once nobody keeps it and nobody reads it."""
        if not self.kept and self.loans == 0:
            self.file.close()


class StoredChunk:
    """A chunk on loan from the store: a ``Chunk``. While it is open its group is not evicted."""

    __slots__ = ("_group", "_open", "file", "length", "read")

    def __init__(self, open_file: OpenFile, group: Group) -> None:
        self._open: OpenFile | None = open_file
        self._group = group
        self.length = open_file.content.length
        self.file = open_file.lendable
        self.read = open_file.content.read
        open_file.loans += 1
        group.pins += 1

    @property
    def identity(self) -> int:
        """What tells its file from any other, also between processes."""
        if self._open is None:
            raise ValueError("the chunk was given back")
        return self._open.identity

    def unchanged(self) -> bool:
        """True if nobody has written to its file since it was opened, nor removed it."""
        return self._open is not None and self._open.unchanged()

    def same_bytes(self) -> bool:
        """True if nobody has written to its file since it was opened."""
        return self._open is not None and self._open.same_bytes()

    @property
    def sha256(self) -> bytes:
        """The hash of the chunk, 32 bytes; raises OSError."""
        if self._open is None:
            raise ValueError("the chunk was given back")
        return self._open.trailer()

    def close(self) -> None:
        """Give the chunk back."""
        if self._open is not None:
            open_file, self._open = self._open, None
            open_file.loans -= 1
            self._group.pins -= 1
            open_file.close_if_done()


class Checked:
    """Which files this process has found right: an identity per chunk, by group, the oldest groups forgotten."""

    def __init__(self, groups: int = _REMEMBERED_GROUPS) -> None:
        self._limit = groups
        self._identities: OrderedDict[GroupKey, array[int]] = OrderedDict()

    def knows(self, open_file: OpenFile) -> bool:
        """True if exactly this file was found right."""
        slots = self._identities.get(open_file.group)
        return slots is not None and slots[open_file.key[1] % GROUP] == open_file.identity

    def add(self, open_file: OpenFile) -> None:
        """Remember that this file was found right."""
        slots = self._identities.get(open_file.group)
        if slots is None:
            slots = self._identities[open_file.group] = array("q", bytes(8 * GROUP))
            if len(self._identities) > self._limit:
                self._identities.popitem(last=False)
        slots[open_file.key[1] % GROUP] = open_file.identity

    def doubt(self, key: GroupKey, index: int) -> None:
        """This chunk is to be checked again."""
        slots = self._identities.get(key)
        if slots is not None:
            slots[index % GROUP] = 0

    def forget(self, key: GroupKey) -> None:
        """The group is gone."""
        self._identities.pop(key, None)


class OpenFiles:
    """The open files of a store, at most ``limit`` kept between loans, the least recently used closed first."""

    def __init__(self, layout: Layout, limit: int) -> None:
        self._layout = layout
        self._limit = limit
        self._kept: OrderedDict[ChunkKey, OpenFile] = OrderedDict()
        self._checked = Checked()
        self._generation = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, digest: Digest, index: int, length: int) -> OpenFile | None:
        """The open file of a chunk of ``length`` bytes, checked or not; None if there is none of the right size.

        Raises OSError where the disk fails.
        """
        key = (digest, index)
        kept = self._kept.get(key)
        if kept is not None:
            if kept.content.length == length and kept.unchanged():
                self._kept.move_to_end(key)
                kept.generation = self._generation
                return kept
            self.forget(digest, index)
        opened = open_chunk_file(self._layout, key, length)
        if opened is not None:
            opened.checked = self._checked.knows(opened)
            self._keep(opened)
        return opened

    def adopt(self, opened: OpenFile) -> None:
        """Keep a file that is known to be right, in place of what was kept for its chunk."""
        self.forget(*opened.key)
        self.trust(opened)
        self._keep(opened)

    def trust(self, opened: OpenFile) -> None:
        """The file's bytes were found right."""
        opened.checked = True
        self._checked.add(opened)

    def doubt(self, digest: Digest, index: int) -> None:
        """Believe no longer that this chunk's file was found right."""
        self.forget(digest, index)
        self._checked.doubt(GroupKey.of(digest, index), index)

    def _keep(self, opened: OpenFile) -> None:
        opened.kept = True
        opened.generation = self._generation
        self._kept[opened.key] = opened
        if len(self._kept) > self._limit:
            self._let_go(next(iter(self._kept.values())))

    def _let_go(self, kept: OpenFile) -> None:
        del self._kept[kept.key]
        kept.kept = False
        kept.close_if_done()

    def forget(self, digest: Digest, index: int) -> None:
        """Keep this chunk's file no longer; whoever has it on loan reads on."""
        kept = self._kept.get((digest, index))
        if kept is not None:
            self._let_go(kept)

    def forget_group(self, key: GroupKey) -> None:
        """Keep no file of this group."""
        self._checked.forget(key)
        first = key.number * GROUP
        for index in range(first, first + GROUP):
            self.forget(key.digest, index)

    def forget_blob(self, digest: Digest) -> None:
        """Keep no file of this blob."""
        for key in [key for key in self._kept if key[0] == digest]:
            self.forget(*key)

    def age(self) -> None:
        """Close what was not used between the last two calls."""
        for kept in [kept for kept in self._kept.values() if kept.generation < self._generation]:
            self._let_go(kept)
        self._generation += 1

    def close(self) -> None:
        """Close every file that is not on loan."""
        for kept in list(self._kept.values()):
            self._let_go(kept)


def open_chunk_file(layout: Layout, key: ChunkKey, length: int) -> OpenFile | None:
    """Open the file of a chunk of ``length`` bytes; None if there is none of the right size. Raises OSError."""
    path = layout.chunk(*key)
    for name, compressed in ((path, False), (path + LZ4_SUFFIX, True)):
        opened = open_as_chunk(name, key, length, compressed)
        if opened is not None:
            return opened
    return None


def open_as_chunk(path: str, key: ChunkKey, length: int, compressed: bool) -> OpenFile | None:
    """Open one file as a chunk of ``length`` bytes; None if it cannot be that. Raises OSError."""
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    return take_as_chunk(descriptor, key, length, compressed)


def take_as_chunk(descriptor: int, key: ChunkKey, length: int, compressed: bool) -> OpenFile | None:
    """Take over an open file as a chunk of ``length`` bytes; closes it and gives None if it cannot be that. Raises OSError."""
    try:
        found = os.fstat(descriptor)
        regular = stat.S_ISREG(found.st_mode)
        content = chunkfile.interpret(descriptor, found.st_size, length, compressed) if regular else None
        if content is not None:
            opened = OpenFile(key, os.fdopen(descriptor, "rb", buffering=0), found, content)
            descriptor = -1
            return opened
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return None


def trailers(layout: Layout, digest: Digest, grid: Grid) -> bytes | None:
    """The sha-256 of each chunk of a blob as its file claims it, in order; None if a chunk is missing. Raises OSError."""
    hashes = bytearray()
    for index in range(grid.count):
        opened = open_chunk_file(layout, (digest, index), grid.length_of(index))
        if opened is None:
            return None
        try:
            hashes += opened.trailer()
        finally:
            opened.close_if_done()
    return bytes(hashes)
