"""Writing one chunk: hash, compress where it pays, write beside, rename. One hop into a thread does it all."""

import contextlib
import errno
import hashlib
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Final
from uuid import uuid4

from registry_proxy.errors import StoreBroken, StoreFull, StoreTrouble
from registry_proxy.oci.digest import Digest, Hasher
from registry_proxy.tiers import chunkfile
from registry_proxy.tiers.chunkfile import Buffer
from registry_proxy.tiers.layout import LZ4_SUFFIX, Layout
from registry_proxy.tiers.openfiles import OpenFile, take_as_chunk, written

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ATTEMPTS: Final = 5
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_READ: Final = os.O_RDONLY | os.O_CLOEXEC


class Hashing:
    """The hashes to be taken of a chunk on its way. Whichever thread comes first takes them, once."""

    def __init__(self, data: Buffer, hasher: Hasher | None) -> None:
        self._data = data
        self._hasher = hasher
        self._lock = threading.Lock()
        self._sha256: bytes | None = None

    def run(self) -> bytes:
        """The chunk's sha-256; feeds the hasher, too."""
        with self._lock:
            if self._sha256 is None:
                sha256 = hashlib.sha256(self._data, usedforsecurity=False).digest()
                if self._hasher is not None:
                    self._hasher.update(self._data)
                self._sha256 = sha256
            return self._sha256


def write_chunk(layout: Layout, digest: Digest, index: int, data: Buffer, sha256: bytes) -> OpenFile:
    """Commit a chunk and return its file open, opened before anybody could evict it. Raises StoreTrouble."""
    frame = chunkfile.compress(data)
    try:
        return _commit(layout, digest, index, len(data), data if frame is None else frame, sha256, frame is not None)
    except OSError as error:
        raise translated(error) from error


def _commit(
    layout: Layout, digest: Digest, index: int, length: int, body: Buffer, sha256: bytes, compressed: bool
) -> OpenFile:
    path = layout.chunk(digest, index)
    name, other = (path + LZ4_SUFFIX, path) if compressed else (path, path + LZ4_SUFFIX)
    temporary = layout.temporary / f"{uuid4().hex}.part"
    descriptor = -1
    try:
        as_written = _write(temporary, body, sha256)
        descriptor = os.open(temporary, _READ)
        _rename(temporary, Path(name))
    except BaseException:
        if descriptor >= 0:
            os.close(descriptor)
        temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):
        Path(other).unlink()
    opened = take_as_chunk(descriptor, (digest, index), length, compressed)
    if opened is None or opened.written != as_written:
        if opened is not None:
            opened.close_if_done()
        raise OSError(errno.EIO, "a chunk is not what was written")
    return opened


def _write(temporary: Path, body: Buffer, sha256: bytes) -> tuple[int, int]:
    """Write the file; what tells whether anybody writes to it after that."""
    try:
        descriptor = os.open(temporary, _WRITE, 0o600)
    except FileNotFoundError:  # the directory was removed under us
        temporary.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, _WRITE, 0o600)
    try:
        chunkfile.write(descriptor, body, sha256)
        now = time.time_ns()
        os.utime(descriptor, ns=(now, now))
        return written(os.fstat(descriptor))
    finally:
        os.close(descriptor)


def _rename(temporary: Path, target: Path) -> None:
    """Rename, making the directories; an eviction may take them away again in between."""
    for attempt in range(_ATTEMPTS):
        try:
            if attempt:
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.rename(target)
        except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError):
            if attempt + 1 == _ATTEMPTS:
                raise
            _clear_way(target)
        else:
            return


def _clear_way(target: Path) -> None:
    """Remove what nobody should have put there: a directory in a chunk's place, a file in a directory's."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target, ignore_errors=True)
    for directory in (target.parent, target.parent.parent, target.parent.parent.parent):
        if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
            directory.unlink(missing_ok=True)


def translated(error: OSError) -> StoreTrouble:
    """What the disk's error means to whoever wanted to write."""
    kind = StoreFull if error.errno in _FULL else StoreBroken
    return kind(f"the store did not take a chunk: {error.strerror or error}")
