"""The tree of published blobs, as CVMFS carries it: where things lie, and how they are opened and read.

```
blobs/<algorithm>/<2 hex>/<hex>                 a blob
chunks/v1/<algorithm>/<hex>/<chunk size>/<n>    one chunk of a blob that was published as grafts
v2/<host>/<repository>/manifests/<digest>       a manifest; a tag is a symbolic link beside it
```

Chunks and manifests lie where an instance has them below its URL, which makes an instance the data server of grafts. Calls here
block for as long as the file system likes.
"""

import errno
import os
import stat
import threading
from abc import ABC, abstractmethod

from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.plan.chunk_objects import ChunkName
from registry_proxy.plan.chunks import Grid, Span

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a planted FIFO is no file to wait for
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def blob_path(digest: Digest) -> str:
    """Where a blob lies, from the top of the tree."""
    return f"blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"


def chunks_path(digest: Digest, chunk_size: int) -> str:
    """The directory of a blob's chunks, from the top of the tree."""
    return ChunkName(digest, chunk_size, 0).path[1:].rpartition("/")[0]


def manifests_path(host: SourceHost, repository: Repository) -> str:
    """The directory of a repository's manifests and tags, from the top of the tree."""
    return f"v2/{host}/{repository}/manifests"


class TreeBlob(ABC):
    """An open blob of the tree. It owns a descriptor: of its file, or of the directory of its chunks.

    ``close`` may be called while a read hangs in another thread; the descriptor is closed when that has returned.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()  # never held while the file system is asked
        self._users = 1

    def read(self, span: Span) -> bytes:
        """Exactly these bytes; raises OSError."""
        with self._lock:
            if not self._users:
                raise OSError(errno.EBADF, "the blob was closed")
            self._users += 1
        try:
            return self._read(self._descriptor, span)
        finally:
            self.close()

    def close(self) -> None:
        """Give it back; call it once."""
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            os.close(self._descriptor)

    @abstractmethod
    def _read(self, descriptor: int, span: Span) -> bytes:
        """Exactly these bytes; raises OSError."""


class WholeBlob(TreeBlob):
    """A blob in one file."""

    def _read(self, descriptor: int, span: Span) -> bytes:
        return _pread(descriptor, span)


class GraftedBlob(TreeBlob):
    """A blob in one file per chunk."""

    def __init__(self, directory: int, grid: Grid) -> None:
        super().__init__(directory)
        self._grid = grid

    def _read(self, descriptor: int, span: Span) -> bytes:
        slices = self._grid.slices(span)
        return b"".join(_read_file(str(piece.index), descriptor, Span(piece.start, piece.stop)) for piece in slices)


def look(root: str) -> None:
    """Find out whether the file system answers; raises OSError if not, or if there is no such directory."""
    with os.scandir(root):
        pass


def open_blob(root: str, digest: Digest, grid: Grid) -> TreeBlob | None:
    """A blob of the grid's size, as one file or as chunks of the grid's; None if it is not there. Raises OSError."""
    try:
        return _open_whole(f"{root}/{blob_path(digest)}", grid.size)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
    try:
        return _open_grafted(f"{root}/{chunks_path(digest, grid.chunk)}", grid)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
    return None


def _open_whole(path: str, size: int) -> WholeBlob | None:
    descriptor = os.open(path, _FLAGS)
    try:
        if _is_file(os.fstat(descriptor), size):
            descriptor, whole = -1, WholeBlob(descriptor)
            return whole
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return None


def _open_grafted(path: str, grid: Grid) -> GraftedBlob | None:
    descriptor = os.open(path, _FLAGS | os.O_DIRECTORY)
    try:
        last = grid.count - 1
        if _is_file(os.stat(str(last), dir_fd=descriptor), grid.length_of(last)):
            descriptor, grafted = -1, GraftedBlob(descriptor, grid)
            return grafted
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return None


def _is_file(found: os.stat_result, size: int) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_size == size


def _read_file(name: str, directory: int, span: Span) -> bytes:
    descriptor = os.open(name, _FLAGS, dir_fd=directory)
    try:
        return _pread(descriptor, span)
    finally:
        os.close(descriptor)


def _pread(descriptor: int, span: Span) -> bytes:
    data = os.pread(descriptor, len(span), span.start)
    while len(data) < len(span):
        more = os.pread(descriptor, len(span) - len(data), span.start + len(data))
        if not more:
            raise OSError(errno.EIO, "the file is shorter than it was")
        data += more
    return data
