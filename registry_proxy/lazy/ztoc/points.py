"""The points at which a gzip layer can be read from, found while it streams by.

The reference rule: between two deflate blocks, if nothing has been put out yet or more than the span size since the last point,
there is a point: how many bytes were taken and put out, how many bits of the last byte taken belong to the next block, and the
last 32 KiB put out (zeros before the first byte). A further gzip member is one more header within the same count of bytes.
Span i is the compressed bytes from point i, with the byte before it if bits of that are needed, up to point i + 1.
"""

import hashlib
import struct
from collections.abc import Callable
from typing import Final

from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.ztoc.bounds import Bounds
from registry_proxy.lazy.ztoc.inflate import GZIP, STREAM_END, WINDOW, Inflater

POINT: Final = struct.Struct(f"<QQB{WINDOW}s")
HEADER: Final = struct.Struct("<IQ")

_ROOM: Final = 1 << 18
"""Bytes put out at once: large enough that the calls cost nothing, small enough for the processor's cache."""


class PointFinder:
    """Feed it the layer; it hands on the uncompressed bytes (views, valid during the call) and collects points and span hashes."""

    def __init__(self, span_size: int, bounds: Bounds, receive: Callable[[memoryview], None]) -> None:
        self._span_size = span_size
        self._bounds = bounds
        self._receive = receive
        self._inflater = Inflater(GZIP, _ROOM)
        self._between = True  # before a member's first byte
        self._points: list[bytes] = []
        self._digests: list[str] = []
        self._hash = hashlib.sha256()
        self._last = 0
        self._last_byte = b""
        self.taken = 0
        self.put_out = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the layer; raises LayerRefused."""
        if not data:
            return
        inflater, begin, hashed = self._inflater, self.taken, 0
        inflater.take(data)
        while inflater.left or inflater.full():
            if self._between and not inflater.left:
                break
            code = self._step()
            self.taken = begin + len(data) - inflater.left
            self._bounds.check(self.taken, self.put_out)
            if code == STREAM_END:
                inflater.restart(GZIP)
                self._between = True
            elif inflater.block_end and (self.put_out == 0 or self.put_out - self._last > self._span_size):
                hashed = self._cut(data, hashed, self.taken - begin)
        self._hash.update(memoryview(data)[hashed:])
        self._last_byte = data[-1:]

    def finish(self) -> tuple[bytes, tuple[str, ...]]:
        """The points as a zTOC has them and the hash of each span (hexadecimal); raises LayerRefused for a layer cut short."""
        if not self._between or not self._points:
            raise LayerRefused("the gzip layer is cut short")
        self._digests.append(self._hash.hexdigest())
        return b"".join((HEADER.pack(len(self._points), self._span_size), *self._points)), tuple(self._digests)

    @property
    def size(self) -> int:
        """Bytes of memory that the points take."""
        return len(self._points) * POINT.size

    def close(self) -> None:
        """Free what zlib holds."""
        self._inflater.close()

    def _step(self) -> int:
        inflater = self._inflater
        at = WINDOW if inflater.full() else inflater.at
        code = inflater.step()
        self._between = False
        if inflater.at > at:
            self.put_out += inflater.at - at
            self._receive(inflater.buffer[at : inflater.at])
        return code

    def _cut(self, data: bytes, hashed: int, at: int) -> int:
        """A point before ``data[at]``: one span ends there, the next begins; up to where ``data`` is hashed now."""
        inflater = self._inflater
        self._hash.update(memoryview(data)[hashed:at])
        if self._points:
            self._digests.append(self._hash.hexdigest())
            self._hash = hashlib.sha256()
            if inflater.bits:
                self._hash.update(data[at - 1 : at] if at else self._last_byte)
        else:
            self._hash = hashlib.sha256()  # what stands before the first point is a gzip header: in no span
        window = inflater.buffer[inflater.at - WINDOW : inflater.at].tobytes()
        self._points.append(POINT.pack(self.taken, self.put_out, inflater.bits, window))
        self._last = self.put_out
        return at
