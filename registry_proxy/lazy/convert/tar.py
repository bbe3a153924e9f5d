"""The entries of a layer's tar, with their headers as they stand there and their contents.

Sparse files are given as what they are once unpacked, since neither a member nor the TOC can say where holes are. Global PAX headers are
left out: containerd ignores them when it unpacks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from registry_proxy.lazy.convert import headers, sparse
from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.ztoc import header
from registry_proxy.lazy.ztoc.bounds import Bounds
from registry_proxy.lazy.ztoc.header import BLOCK, ZEROS, Entry

Piece = bytes | memoryview
_LONGEST_HEAD: Final = 4 * header.LONGEST_META
_GLOBAL: Final = b"g"
_OLD_SPARSE: Final = b"S"


@dataclass(frozen=True, slots=True)
class Item:
    """An entry and the blocks of its headers. ``entry.size`` bytes of contents follow, then padding up to a block."""

    entry: Entry
    blocks: bytes


def plain_file(name: str, size: int) -> Item:
    """A file of ours."""
    blocks = headers.plain_file(name, size)
    return Item(header.entry(blocks, 0, size, {}, {}), blocks)


class TarReader:
    """Reads a tar from its pieces. ``ended``: the two zero blocks at its end were there."""

    def __init__(self, pieces: Iterator[bytes], bounds: Bounds) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0
        self._largest = bounds.layer
        self._left = self._pad = 0  # stored bytes of the current entry not read yet, and the padding behind them
        self._map: sparse.Map | None = None
        self.ended = False

    def next(self) -> Item | None:
        """The next entry, or None at the end of the tar, when all of the layer has been read.

        What was not read of the former entry's contents is skipped. Raises LayerRefused.
        """
        self._skip()
        blocks: list[bytes] = []
        records: dict[bytes, bytes] = {}
        long: dict[bytes, bytes] = {}
        while block := self._header():
            flag, size = block[156:157], header.stated_size(block)
            if not 0 <= size <= self._largest:
                raise LayerRefused(f"a tar entry claims {size} bytes")
            if flag not in header.META and flag != _GLOBAL:
                return self._item((*blocks, block), size, records, long)
            padded = self._meta(size)
            if flag == b"x":
                records = header.pax_records(padded[:size])
            elif flag != _GLOBAL:
                long[flag] = header.text(padded[:size])
            if flag != _GLOBAL:
                blocks += (block, padded)
            if sum(map(len, blocks)) > _LONGEST_HEAD:
                raise LayerRefused("a tar entry whose extended headers have no end")
        if blocks:
            raise LayerRefused("the layer's tar is cut short")
        return None

    def content(self) -> Iterator[Piece]:
        """The contents of the entry given last, in pieces of at most a MiB; raises LayerRefused if they are cut short."""
        stored, self._left = self._left, 0
        if self._map is None:
            return self._parts(stored)
        return sparse.expanded(self._map, self._parts)

    def _item(
        self, blocks: tuple[bytes, ...], size: int, records: dict[bytes, bytes], long: dict[bytes, bytes]
    ) -> Item:
        block = blocks[-1]
        map_ = None
        if block[156:157] == _OLD_SPARSE:
            map_ = sparse.of_header(block, self._take)
            block = block[:156] + b"0" + block[157:]
        entry = header.entry(block, 0, size, records, long)
        if not 0 <= entry.size <= self._largest:
            raise LayerRefused(f"{entry.name[:200]!r} claims {entry.size} bytes")
        if entry.size and entry.kind != "reg":
            raise LayerRefused(f"{entry.name[:200]!r} is a {entry.kind} that claims to have contents")
        self._left, self._pad = entry.size, -entry.size % BLOCK
        self._map = map_ or (sparse.of_records(records, self._take_stored) if records else None)
        if self._map is None:
            return Item(entry, b"".join(blocks))
        if self._map.size > self._largest or self._map.stored != self._left:
            raise LayerRefused(f"{entry.name[:200]!r} is a sparse file whose sizes cannot be right")
        entry = sparse.plain(entry, self._map)
        return Item(entry, headers.written(entry))

    def _take_stored(self, count: int) -> bytes:
        """The next bytes of the current entry's stored contents."""
        self._left -= count
        if self._left < 0:
            raise LayerRefused("a sparse file whose map is cut short")
        return self._take(count)

    def _skip(self) -> None:
        """Up to the next header; a missing padding at the end is forgiven."""
        for _ in self._parts(self._left):
            pass
        self._taken(self._pad)
        self._left = self._pad = 0

    def _meta(self, size: int) -> bytes:
        """The payload of an extended header, with its padding."""
        if size > header.LONGEST_META:
            raise LayerRefused(f"a tar entry's extended header has {size} bytes")
        return self._take(-(-size // BLOCK) * BLOCK)

    def _header(self) -> bytes:
        """The next header; empty at the end, when the rest has been read: what follows the end mark counts for nothing."""
        block = self._taken(BLOCK)
        if block and block != ZEROS:
            return self._whole(block, BLOCK)
        if block:
            second = self._taken(BLOCK)
            if second.strip(b"\0"):
                raise LayerRefused("the layer's tar goes on after a zero block")
            self.ended = len(second) == BLOCK
        for _ in self._pieces:
            pass
        self._piece, self._at = b"", 0
        return b""

    def _take(self, count: int) -> bytes:
        return self._whole(self._taken(count), count)

    def _whole(self, data: bytes, count: int) -> bytes:
        if len(data) != count:
            raise LayerRefused("the layer's tar is cut short")
        return data

    def _taken(self, count: int) -> bytes:
        """That many bytes, fewer only at the end."""
        data = self._piece[self._at : self._at + count]
        self._at += len(data)
        if len(data) == count:
            return data
        collected = bytearray(data)
        while len(collected) < count and self._more():
            data = self._piece[: count - len(collected)]
            self._at = len(data)
            collected += data
        return bytes(collected)

    def _parts(self, count: int) -> Iterator[Piece]:
        """The next bytes, without copying them."""
        while count:
            if self._at >= len(self._piece) and not self._more():
                raise LayerRefused("the layer's tar is cut short")
            start = self._at
            self._at = min(start + count, len(self._piece))
            count -= self._at - start
            yield memoryview(self._piece)[start : self._at]

    def _more(self) -> bool:
        self._at = 0
        self._piece = next(self._pieces, b"")
        return bool(self._piece)
