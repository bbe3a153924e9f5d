"""Reading a zstd:chunked layer: its TOC first, then files by their frames."""

import io
from collections.abc import Iterator
from typing import Final

import zstandard

from registry_proxy.lazy.failures import IndexInvalid
from registry_proxy.lazy.files import Read, read_exactly
from registry_proxy.lazy.toc import MAX_TOC, TocIndex
from registry_proxy.lazy.zstd_chunked.footer import Position
from registry_proxy.plan.chunks import Span

_PIECE: Final = 1 << 20
_LARGEST_WINDOW: Final = 128 << 20
"""Bytes: what zstd's own decoder accepts unless told otherwise."""

_SKIPPABLE_HEADER: Final = 8


def toc_span(position: Position, size: int) -> Span:
    """Where a layer of ``size`` bytes keeps its TOC; raises IndexInvalid if it is not there."""
    if position.offset < _SKIPPABLE_HEADER or position.offset + position.length > size:
        raise IndexInvalid("a zstd:chunked TOC that would lie outside the layer")
    if max(position.length, position.raw) > MAX_TOC:
        raise IndexInvalid(f"a zstd:chunked TOC larger than {MAX_TOC} bytes")
    return Span(position.offset, position.offset + position.length)


def open_index(position: Position, size: int, read: Read) -> TocIndex:
    """The index of a zstd:chunked layer; raises IndexInvalid."""
    span = toc_span(position, size)
    packed = read_exactly(read, span)
    if position.checksum is not None and not position.checksum.matches(packed):
        raise IndexInvalid("the layer's TOC does not hash to what its manifest says")
    return TocIndex("zstd:chunked", _toc(packed, position.raw), size, span.start - _SKIPPABLE_HEADER, inflate)


def inflate(frame: bytes) -> Iterator[bytes]:
    """The bytes of zstd frames; raises IndexInvalid. What follows the last whole frame is cut short and gives no bytes."""
    decoder = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    try:
        with decoder.stream_reader(io.BytesIO(frame), read_across_frames=True) as stream:
            while piece := stream.read(_PIECE):
                yield piece
    except zstandard.ZstdError as error:
        raise IndexInvalid(f"a damaged zstd frame in the layer: {error}") from error


def _toc(packed: bytes, raw: int) -> bytes:
    found = bytearray()
    for piece in inflate(packed):
        found += piece
        if len(found) > raw:
            break
    if len(found) != raw:
        raise IndexInvalid("the layer's TOC is not as long as it says")
    return bytes(found)
