"""A temporary file without a name: an object lies here until its hash is known to be right, and while it is read.

Its methods but ``close`` run in threads, which cannot be cancelled; so the file closes when the last of them is out.
"""

import errno
import os
import tempfile
from pathlib import Path
from threading import Lock


class Spool:
    """Bytes on disk. ``size``: how many there are. ``origin``: the server they came from."""

    def __init__(self, directory: Path) -> None:
        self.size = 0
        self.origin = ""
        self._directory = directory
        self._descriptor: int | None = None
        self._lock = Lock()
        self._users = 0
        self._closed = False

    def write(self, data: bytes | bytearray) -> None:
        """Append; raises OSError."""
        descriptor = self._enter()
        try:
            view = memoryview(data)
            while view:
                n = os.pwrite(descriptor, view, self.size)
                self.size += n
                view = view[n:]
        finally:
            self._leave()

    def read(self, start: int, stop: int) -> bytes:
        """The bytes ``[start, stop)``; raises OSError if they cannot be read, all of them."""
        descriptor = self._enter()
        try:
            data = os.pread(descriptor, stop - start, start)
        finally:
            self._leave()
        if len(data) != stop - start:
            raise OSError(errno.EIO, "a temporary file has become shorter")
        return data

    def close(self) -> None:
        """Give the space back; whoever is inside finishes first."""
        with self._lock:
            self._closed = True
            descriptor = self._take_if_unused()
        if descriptor is not None:
            os.close(descriptor)

    def _enter(self) -> int:
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "a temporary file was given up")
            if self._descriptor is None:
                self._descriptor = self._open()
            self._users += 1
            return self._descriptor

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            descriptor = self._take_if_unused()
        if descriptor is not None:
            os.close(descriptor)

    def _take_if_unused(self) -> int | None:
        if self._users or not self._closed:
            return None
        descriptor, self._descriptor = self._descriptor, None
        return descriptor

    def _open(self) -> int:
        with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
            return os.dup(file.fileno())
