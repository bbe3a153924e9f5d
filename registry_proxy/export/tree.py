"""Writing the tree that CVMFS carries (``tiers.tree`` has its form): everything appears whole and verified, or not at all.

Bytes are written below ``.partial``, hashed as they pass, flushed to disk and then renamed; whatever an earlier run left there is
thrown away. Calls here block; several threads may write at the same time, several processes may not.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol, Self

from registry_proxy.errors import PublishFailed
from registry_proxy.export import grafts
from registry_proxy.oci.content import HintedBlob
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost, Tag
from registry_proxy.tiers.tree import blob_path, chunks_path, manifests_path

_PARTIAL: Final = ".partial"


class BlobWriter(Protocol):
    """Takes the bytes of one blob, in order."""

    def write(self, block: bytes) -> None:
        """The next bytes; raises PublishFailed."""

    def commit(self) -> None:
        """That was all: check it and make it visible. Raises PublishFailed."""


class Tree:
    """The tree below ``root``, locked for as long as it is entered. ``graft``: write grafts of blobs' chunks, of so many bytes, instead
    of blobs."""

    def __init__(self, root: Path, graft: tuple[int, grafts.Algorithm] | None = None) -> None:
        self._root = root
        self._graft = graft
        self._lock = -1

    def __enter__(self) -> Self:
        """Make the directory if need be and clean up after a run that was killed. Raises PublishFailed, OSError."""
        self._root.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise PublishFailed(f"{self._root}: somebody else is publishing there") from None
        shutil.rmtree(self._root / _PARTIAL, ignore_errors=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._root / _PARTIAL, ignore_errors=True)
        os.close(self._lock)

    def has(self, blob: HintedBlob) -> bool:
        """True if the blob has been published in this form."""
        if self._graft is not None:
            return (self._root / chunks_path(blob.digest, self._graft[0])).is_dir()
        with suppress(OSError):
            return (self._root / blob_path(blob.digest)).stat().st_size == blob.size
        return False

    @contextmanager
    def blob(self, blob: HintedBlob) -> Iterator[BlobWriter]:
        """Takes a blob; without ``commit`` nothing of it stays. Raises PublishFailed."""
        with _told():
            partial = self._partial(blob.digest)
            writer: _WholeBlob | _Grafts
            if self._graft is None:
                writer = _WholeBlob(blob, partial, self._root / blob_path(blob.digest))
            else:
                writer = _Grafts(blob, partial, self._root / chunks_path(blob.digest, self._graft[0]), *self._graft)
        try:
            yield writer
        finally:
            writer.close()

    def manifest(self, host: SourceHost, repository: Repository, body: bytes) -> bool:
        """Publish a manifest in a repository; False if it was there."""
        digest = Digest.of(body)
        target = self._root / manifests_path(host, repository) / str(digest)
        with suppress(OSError):
            if target.read_bytes() == body:
                return False
        with _told():
            partial = self._partial(digest)
            partial.write_bytes(body)
            _flush(partial)
            _appear(partial, target)
        return True

    def tag(self, host: SourceHost, repository: Repository, tag: Tag, digest: Digest) -> bool:
        """Point a tag to a published manifest; False if it does so already."""
        target = self._root / manifests_path(host, repository) / tag
        with suppress(OSError):
            if str(target.readlink()) == str(digest):
                return False
        with _told():
            partial = self._partial(digest)
            partial.symlink_to(str(digest))
            _appear(partial, target)
        return True

    def _partial(self, digest: Digest) -> Path:
        directory = self._root / _PARTIAL
        directory.mkdir(exist_ok=True)
        return directory / f"{digest.algorithm}-{digest.hex}"


class _WholeBlob:
    """Writes a blob as one file."""

    def __init__(self, blob: HintedBlob, partial: Path, target: Path) -> None:
        self._check = _Check(blob)
        self._partial = partial
        self._target = target
        self._file = partial.open("wb")

    def write(self, block: bytes) -> None:
        self._check.take(block)
        with _told():
            self._file.write(block)

    def commit(self) -> None:
        self._check.passed()
        with _told():
            self._file.flush()
            os.fsync(self._file.fileno())
            _appear(self._partial, self._target)

    def close(self) -> None:
        with suppress(OSError):  # what could not be written in time is not wanted now
            self._file.close()
        self._partial.unlink(missing_ok=True)


class _Grafts:
    """Writes the grafts of a blob's chunks, and nothing of the blob itself."""

    def __init__(
        self, blob: HintedBlob, partial: Path, target: Path, chunk_size: int, algorithm: grafts.Algorithm
    ) -> None:
        self._check = _Check(blob)
        self._partial = partial
        self._target = target
        self._chunk_size = chunk_size
        self._algorithm = algorithm
        self._buffer = bytearray()
        self._count = 0
        partial.mkdir()

    def write(self, block: bytes) -> None:
        self._check.take(block)
        self._buffer += block
        with _told():
            while len(self._buffer) >= self._chunk_size:
                self._chunk(self._chunk_size)

    def commit(self) -> None:
        self._check.passed()
        with _told():
            if self._buffer:
                self._chunk(len(self._buffer))
            for written in self._partial.iterdir():  # all at the end: one by one, each would wait for the disk alone
                _flush(written)
            _flush(self._partial)
            _appear(self._partial, self._target)

    def _chunk(self, size: int) -> None:
        name = str(self._count)
        (self._partial / name).touch()
        (self._partial / grafts.marker(name)).write_bytes(grafts.graft(bytes(self._buffer[:size]), self._algorithm))
        del self._buffer[:size]
        self._count += 1

    def close(self) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)


class _Check:
    """Compares what passes with what a blob has to be."""

    def __init__(self, blob: HintedBlob) -> None:
        self._blob = blob
        self._hasher = blob.digest.hasher()
        self._size = 0

    def take(self, block: bytes) -> None:
        self._hasher.update(block)
        self._size += len(block)

    def passed(self) -> None:
        """Raises PublishFailed if these were other bytes, or not all."""
        if self._size != self._blob.size or self._hasher.hexdigest() != self._blob.digest.hex:
            raise PublishFailed(f"{self._size} bytes came that are not {self._blob.digest} ({self._blob.size} bytes)")


@contextmanager
def _told() -> Iterator[None]:
    """Trouble with the disk, as PublishFailed."""
    try:
        yield
    except OSError as error:
        raise PublishFailed(str(error)) from error


def _appear(partial: Path, target: Path) -> None:
    """Rename into place, so that it survives a crash; what stands there (a wrong size, an old tag) is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    _flush(target.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
