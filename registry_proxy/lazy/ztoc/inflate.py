"""zlib's inflate as it is: stopped at block boundaries, started in the middle of a stream.

The standard library's ``zlib`` has neither Z_BLOCK nor inflatePrime, and the packages that build such indexes (indexed_gzip, rapidgzip)
want a file they can seek in, while a zTOC is made of bytes that stream by, with exactly the points of the reference builder. The few
functions needed are zlib's public interface, and ctypes releases the interpreter during each call; so no compiled extension of our own
and no further dependency.
"""

import ctypes
import ctypes.util
from functools import cache
from typing import Final

from registry_proxy.lazy.failures import LayerRefused

WINDOW: Final = 1 << 15
"""Bytes that deflate looks back at most."""

GZIP: Final = 31
RAW: Final = -15

STREAM_END: Final = 1
_OK: Final = 0
_NEED_DICT: Final = 2
_BUF_ERROR: Final = -5
_BLOCK: Final = 5


class _Stream(ctypes.Structure):
    """z_stream (zlib.h)."""

    _fields_ = [
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_uint),
        ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint),
        ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p),
        ("state", ctypes.c_void_p),
        ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    ]


@cache
def _library() -> ctypes.CDLL:
    for name in ("libz.so.1", ctypes.util.find_library("z"), "libz.so"):
        if name is None:
            continue
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.zlibVersion.restype = ctypes.c_char_p
        library.inflate.argtypes = (ctypes.c_void_p, ctypes.c_int)
        library.inflateEnd.argtypes = (ctypes.c_void_p,)
        library.inflateReset2.argtypes = (ctypes.c_void_p, ctypes.c_int)
        library.inflatePrime.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
        library.inflateSetDictionary.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint)
        library.inflateInit2_.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
        return library
    raise LayerRefused("indexing gzip layers needs the shared library libz.so.1 (Debian: zlib1g), which is not here")


class Inflater:
    """One inflate stream, its output in ``buffer``: the last WINDOW bytes of what came before, then room for more.

    ``at``: where the next byte of output goes in ``buffer``; ``block_end``: the stream stands between two blocks;
    ``bits``: how many bits of the last byte taken belong to what follows.
    """

    def __init__(self, wbits: int, room: int) -> None:
        self._z = _Stream()
        self._ref = ctypes.addressof(self._z)
        self._library = _library()
        self._end = WINDOW + room
        self._memory = (ctypes.c_char * self._end)()
        self._base = ctypes.addressof(self._memory)
        self._input = b""
        self.buffer = memoryview(self._memory).cast("B")
        self.at = WINDOW
        code = self._library.inflateInit2_(self._ref, wbits, self._library.zlibVersion(), ctypes.sizeof(_Stream))
        if code != _OK:
            raise MemoryError(f"zlib: inflateInit2 answers {code}")
        self._live = True

    @property
    def left(self) -> int:
        """Bytes of the input not taken yet."""
        return int(self._z.avail_in)

    @property
    def block_end(self) -> bool:
        """True if inflate stopped after a stream header or after a block that is not the last one (zlib.h, Z_BLOCK)."""
        return bool(self._z.data_type & 0xC0 == 0x80)

    @property
    def bits(self) -> int:
        """Unused bits of the last byte taken, 0 to 7."""
        return int(self._z.data_type & 7)

    def take(self, data: bytes) -> None:
        """The next input; what was left of the former one is forgotten."""
        self._input = data  # kept alive: zlib has its address
        self._z.next_in = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
        self._z.avail_in = len(data)

    def start_in_the_middle(self, window: bytes, bits: int, byte: int) -> None:
        """Go on behind a point of a raw stream: its window, and the bits of the byte before it that belong to it."""
        if bits:
            self._check(self._library.inflatePrime(self._ref, bits, byte >> (8 - bits)))
        self._check(self._library.inflateSetDictionary(self._ref, window, len(window)))

    def restart(self, wbits: int) -> None:
        """The next stream begins with the input that is left."""
        self._check(self._library.inflateReset2(self._ref, wbits))

    def step(self) -> int:
        """Inflate up to a block's end, or until input or room are used up; zlib's code, STREAM_END or 0.

        Raises LayerRefused if the stream is damaged. A full buffer is made room in first: what lies before ``at`` moves.
        """
        if self.at == self._end:
            self.buffer[:WINDOW] = self.buffer[self._end - WINDOW :]
            self.at = WINDOW
        self._z.next_out = self._base + self.at
        self._z.avail_out = room = self._end - self.at
        code = int(self._library.inflate(self._ref, _BLOCK))
        self.at += room - self._z.avail_out
        if code == STREAM_END:
            return STREAM_END
        if code != _BUF_ERROR:
            self._check(code)
        return _OK

    def full(self) -> bool:
        """True if there may be output that had no room."""
        return self.at == self._end

    def close(self) -> None:
        """Free zlib's memory."""
        if self._live:
            self._live = False
            self._library.inflateEnd(self._ref)

    def _check(self, code: int) -> None:
        if code != _OK:
            message = self._z.msg.decode("ascii", "replace") if self._z.msg else f"code {code}"
            raise LayerRefused(f"not a sound gzip stream: {message}")
