"""The tar inside a layer, piece by piece, whatever the layer is compressed with."""

from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

import zstandard

from registry_proxy.lazy.convert import codec
from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.ztoc.bounds import Bounds

PIECE: Final = 1 << 20
"""Bytes of the tar at once, at most."""

_BLOCK: Final = 1 << 18
_ZSTD_WINDOW: Final = 128 << 20
"""Bytes that a zstd layer may look back, and so the memory it may ask for; ``zstd --long`` uses as much by default."""

_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + i,)) + b"\x2a\x4d\x18" for i in range(16)))


class Source:
    """A layer as it is stored, read once from where it stands. ``taken``: its bytes; ``put_out``: bytes of its tar; ``end_is_told``:
    a layer cut short has been refused by the end of ``pieces`` (the zstd library does not tell a cut frame from a whole one)."""

    def __init__(self, file: BinaryIO, bounds: Bounds, progress: Callable[[int], None] | None) -> None:
        self._file = file
        self._bounds = bounds
        self._progress = progress
        self._first = b""
        self.taken = 0
        self.put_out = 0
        self.end_is_told = True

    def pieces(self) -> Iterator[bytes]:
        """The tar; raises LayerRefused for a damaged stream, and for one that grows beyond its bounds."""
        self._first = self.read()
        if self._first.startswith(_GZIP_MAGIC):
            unpacked = self._gunzipped()
        elif self._first.startswith(_ZSTD_MAGIC):
            unpacked, self.end_is_told = self._unzstd(), False
        else:
            unpacked = iter(self.read, b"")
        for piece in unpacked:
            self.put_out += len(piece)
            self._bounds.check(self.taken, self.put_out)
            yield piece

    def read(self, _: int = _BLOCK) -> bytes:
        """The next bytes of the layer, empty at its end."""
        if self._first:
            block, self._first = self._first, b""
            return block
        block = self._file.read(_BLOCK)
        self.taken += len(block)
        if self._progress is not None:
            self._progress(self.taken)
        return block

    def _gunzipped(self) -> Iterator[bytes]:
        data = self.read()
        try:
            while data:
                stream = codec.gunzipper()
                yield from self._member(stream, data)
                data = stream.unused_data or self.read()
        except codec.BROKEN as error:
            raise LayerRefused(f"not a sound gzip stream: {error}") from error

    def _member(self, stream: codec.Gunzipper, data: bytes) -> Iterator[bytes]:
        while True:
            piece = stream.decompress(data, PIECE)
            if piece:
                yield piece
            if stream.eof:
                return
            if not piece and not data:
                raise LayerRefused("the gzip layer is cut short")
            data = stream.unconsumed_tail or self.read()

    def _unzstd(self) -> Iterator[bytes]:
        opener = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        try:
            with opener.stream_reader(self, read_across_frames=True, closefd=False) as stream:  # type: ignore[arg-type]
                yield from iter(lambda: stream.read(PIECE), b"")
        except zstandard.ZstdError as error:
            raise LayerRefused(f"not a sound zstd stream: {error}") from error
