"""The end of an eStargz layer: its TOC as the last file of the tar, and the footer that says where it is."""

import hashlib
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from registry_proxy.lazy.convert import headers, names
from registry_proxy.lazy.convert.rows import Row
from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.toc import MAX_TOC
from registry_proxy.lazy.ztoc.header import BLOCK
from registry_proxy.oci.digest import Digest

_LEVEL: Final = 6
"""Of the TOC, which every start reads whole: small is worth a moment."""

_PIECE: Final = 1 << 20
_encode = msgspec.json.Encoder().encode


class TocWriter:
    """Takes rows in the order of the layer; keeps them in a temporary file in ``directory``, since a layer may have very many."""

    def __init__(self, directory: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=directory, buffering=_PIECE)  # noqa: SIM115  (closed by __exit__)
        self._waiting: deque[Row] = deque()
        self._hash = hashlib.sha256()
        self._size = 0
        self.count = 0
        self._put(b'{"version":1,"entries":[')

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, row: Row) -> None:
        """The next row. A regular file whose digest is not known yet holds up those behind it."""
        self._waiting.append(row)
        if len(self._waiting) == 1 or self._waiting[0].digest:
            self._settle()

    def _settle(self) -> None:
        while self._waiting and (self._waiting[0].digest or self._waiting[0].type != "reg"):
            self._put((b"," if self.count else b"") + _encode(self._waiting.popleft()))
            self.count += 1

    def finish(self) -> Digest:
        """All rows are there: the digest of the TOC's JSON."""
        self._settle()
        self._put(b"]}")
        return Digest("sha256", self._hash.hexdigest())

    def tar(self) -> Iterator[bytes]:
        """The TOC as a file of a tar, and the end of that tar."""
        yield headers.plain_file(names.TOC, self._size)
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            yield piece
        yield bytes(-self._size % BLOCK + 2 * BLOCK)

    def _put(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_TOC:
            raise LayerRefused(f"the TOC of the layer would be larger than {MAX_TOC} bytes")
        self._hash.update(data)
        self._file.write(data)


def packed(tar: Iterator[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """One gzip member of these pieces: each piece, and what of the member it brings out."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
    for piece in tar:
        yield piece, stream.compress(piece)
    yield b"", stream.flush()
