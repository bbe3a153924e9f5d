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
from pathlib import PurePosixPath
from typing import Protocol

from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.plan.chunk_objects import ChunkName
from registry_proxy.plan.chunks import Grid, Span

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a planted FIFO is no file to wait for
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def blob_path(digest: Digest) -> str:
    """Where a blob lies, from the top of the tree."""
    return f"blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"


def chunk_path(digest: Digest, chunk_size: int, index: int) -> str:
    """Where one chunk lies, from the top of the tree: the path of its chunk object."""
    return ChunkName(digest, chunk_size, index).path[1:]


def manifests_path(host: SourceHost, repository: Repository) -> str:
    """The directory of a repository's manifests and tags, from the top of the tree."""
    return f"v2/{host}/{repository}/manifests"


class TreeFile(Protocol):
    """An open blob of the tree."""

    def read(self, span: Span) -> bytes:
        """Exactly these bytes; raises OSError."""

    def close(self) -> None:
        """Close it."""


class WholeBlob:
    """A blob in one file. It owns the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, span: Span) -> bytes:
        """Exactly these bytes; raises OSError."""
        return _pread(self._descriptor, span)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class GraftedBlob:
    """A blob in one file per chunk. It owns the descriptor of their directory."""

    def __init__(self, directory: int, grid: Grid) -> None:
        self._directory = directory
        self._grid = grid

    def read(self, span: Span) -> bytes:
        """Exactly these bytes; raises OSError."""
        return b"".join(self._slice(piece.index, Span(piece.start, piece.stop)) for piece in self._grid.slices(span))

    def _slice(self, index: int, span: Span) -> bytes:
        descriptor = os.open(str(index), _FLAGS, dir_fd=self._directory)
        try:
            return _pread(descriptor, span)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the directory."""
        os.close(self._directory)


def open_blob(root: str, digest: Digest, grid: Grid) -> TreeFile | None:
    """A blob of the grid's size, as one file or as chunks of the grid's; None if it is not there. Raises OSError."""
    try:
        return _open_whole(os.path.join(root, blob_path(digest)), grid.size)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
    try:
        return _open_grafted(os.path.join(root, PurePosixPath(chunk_path(digest, grid.chunk, 0)).parent), grid)
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


def _pread(descriptor: int, span: Span) -> bytes:
    data = os.pread(descriptor, len(span), span.start)
    while len(data) < len(span):
        more = os.pread(descriptor, len(span) - len(data), span.start + len(data))
        if not more:
            raise OSError(errno.EIO, "the file is shorter than it was")
        data += more
    return data
