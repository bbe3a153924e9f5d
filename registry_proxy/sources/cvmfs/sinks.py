"""Where bodies go: hashed as they come, inflated if need be, and bounded by what a catalog said before they came."""

import zlib
from collections.abc import Callable

from registry_proxy.sources.cvmfs.hashes import ContentHash, Hashing
from registry_proxy.sources.cvmfs.wire import WrongBytes

_STEP = 256 * 1024
"""Bytes inflated at once."""


class Memory:
    """A small body as it is. ``limit``: bytes; raises WrongBytes beyond."""

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self._limit = limit

    def feed(self, data: bytes | bytearray) -> None:
        """Take more bytes."""
        self.data += data
        if len(self.data) > self._limit:
            raise WrongBytes(f"more than {self._limit} bytes where no more can be right")

    def finish(self) -> None:
        """Nothing to do."""


class Verified:
    """A body that must hash to ``wanted``; what it holds goes to ``write`` and is to be believed only after ``finish``.

    ``size``: bytes of what it holds, once inflated. ``exact``: it must be that many, else at most.
    """

    def __init__(
        self,
        wanted: ContentHash,
        size: int,
        write: Callable[[bytes | bytearray], object],
        *,
        compressed: bool,
        exact: bool = True,
    ) -> None:
        self._wanted = wanted
        self._size = size
        self._exact = exact
        self._write = write
        self._hashing = Hashing(wanted.algorithm)
        self._inflater = zlib.decompressobj() if compressed else None
        self._wire_left = _most_on_the_wire(size) if compressed else size
        self.written = 0

    def feed(self, data: bytes | bytearray) -> None:
        """Take more bytes; raises WrongBytes if there can be no more."""
        self._wire_left -= len(data)
        if self._wire_left < 0:
            raise WrongBytes("more bytes than the catalog says")
        self._hashing.update(data)
        if self._inflater is None:
            self._put(data)
        else:
            self._inflate(self._inflater, data)

    def finish(self) -> None:
        """That was all; raises WrongBytes unless it is what it should be."""
        if self._hashing.result() != self._wanted:
            raise WrongBytes(f"does not hash to {self._wanted}")
        if self._inflater is not None and not self._inflater.eof:
            raise WrongBytes("ends within its zlib stream")
        if self._exact and self.written != self._size:
            raise WrongBytes(f"holds {self.written} bytes where the catalog says {self._size}")

    def _inflate(self, inflater: "zlib._Decompress", data: bytes | bytearray) -> None:
        full = True
        while data or full:  # a step that was full may have left more inside
            try:
                plain = inflater.decompress(data, _STEP)
            except zlib.error as error:
                raise WrongBytes("not a zlib stream") from error
            self._put(plain)
            if inflater.unused_data:
                raise WrongBytes("goes on after its zlib stream")
            data, full = inflater.unconsumed_tail, len(plain) == _STEP

    def _put(self, data: bytes | bytearray) -> None:
        self.written += len(data)
        if self.written > self._size:
            raise WrongBytes("holds more bytes than the catalog says")
        self._write(data)


def _most_on_the_wire(size: int) -> int:
    """Bytes that zlib makes of ``size`` at worst: stored blocks, with room to spare."""
    return size + (size >> 8) + 1024
