"""Sparse files in tars: GNU's old header (type S), and the PAX records of GNU 0.0, 0.1 and 1.0, as Go's archive/tar reads them.

What such an entry stores are its pieces of data one after another; a map says where in the file each belongs, the rest is zeros.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.ztoc import header
from registry_proxy.lazy.ztoc.header import BLOCK, Entry

_ZEROS: Final = memoryview(bytes(1 << 20))
_LONGEST_MAP: Final = 1 << 20
_PREFIX: Final = b"GNU.sparse."
_OF_THE_STORED: Final = (b"size", b"path")
"""Records that speak of the entry as it was stored."""


@dataclass(frozen=True, slots=True)
class Map:
    """``parts``: (place in the file, bytes) of each piece of data, in order; ``size``: of the file."""

    parts: tuple[tuple[int, int], ...]
    size: int

    @property
    def stored(self) -> int:
        """Bytes of data."""
        return sum(size for _, size in self.parts)


def of_header(block: bytes, take: Callable[[int], bytes]) -> Map:
    """The map of an old GNU header; ``take`` gives the blocks behind it. Raises LayerRefused."""
    fields = [block[at : at + 24] for at in range(386, 482, 24)]
    more, read = block[482], 0
    while more:
        read += BLOCK
        if read > _LONGEST_MAP:
            raise LayerRefused("a sparse file whose map has no end")
        extension = take(BLOCK)
        fields += [extension[at : at + 24] for at in range(0, 504, 24)]
        more = extension[504]
    numbers = [header.number(part) for field in fields if field[0] for part in (field[:12], field[12:])]
    return _checked(numbers, header.number(block[483:495]))


def of_records(records: Mapping[bytes, bytes], take: Callable[[int], bytes]) -> Map | None:
    """The map that an entry's PAX records say, or None for an ordinary file; ``take`` gives the entry's stored contents, where 1.0
    has its map. Raises LayerRefused."""
    if not any(key.startswith(_PREFIX) for key in records):
        return None
    version = records.get(b"GNU.sparse.major", b"0"), records.get(b"GNU.sparse.minor", b"0")
    stated = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize") or b""
    size = header.decimal(stated)
    if version == (b"1", b"0"):
        return _checked(_map_of_contents(take), size)
    if version[0] != b"0" or b"GNU.sparse.map" not in records:
        raise LayerRefused("a sparse file of a form that is not known")
    text = records[b"GNU.sparse.map"]
    return _checked([header.decimal(number) for number in text.split(b",")] if text else [], size)


def plain(entry: Entry, map_: Map) -> Entry:
    """The entry of the file that a sparse one is once unpacked."""
    records = dict(entry.records)
    name = records.get(b"GNU.sparse.name") or entry.name
    kept = [item for item in entry.records if not item[0].startswith(_PREFIX) and item[0] not in _OF_THE_STORED]
    return msgspec.structs.replace(entry, name=name, size=map_.size, records=tuple(kept))


def expanded(map_: Map, parts: Callable[[int], Iterator[bytes | memoryview]]) -> Iterator[bytes | memoryview]:
    """The whole file; ``parts`` gives the next bytes of data."""
    at = 0
    for place, size in map_.parts:
        yield from _hole(place - at)
        yield from parts(size)
        at = place + size
    yield from _hole(map_.size - at)


def _hole(size: int) -> Iterator[memoryview]:
    while size:
        piece = _ZEROS[:size]
        size -= len(piece)
        yield piece


def _map_of_contents(take: Callable[[int], bytes]) -> Sequence[int]:
    """Decimal numbers, one a line, how many pairs first; padded to a block."""
    text = take(BLOCK)
    count = header.decimal(text.partition(b"\n")[0])
    wanted = 2 * count + 1
    lines = text.count(b"\n")
    read = [text]
    while lines < wanted:
        if len(read) * BLOCK > _LONGEST_MAP or count < 0:
            raise LayerRefused("a sparse file whose map has no end")
        read.append(take(BLOCK))
        lines += read[-1].count(b"\n")
    return [header.decimal(number) for number in b"".join(read).split(b"\n", wanted)[1:wanted]]


def _checked(numbers: Sequence[int], size: int) -> Map:
    if len(numbers) % 2 or size < 0:
        raise LayerRefused("a sparse file with a malformed map")
    parts = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    end = 0
    for place, count in parts:
        if count < 0 or place < end or place + count > size:
            raise LayerRefused("a sparse file whose map contradicts itself")
        end = place + count
    return Map(parts, size)
