"""Reading a zstd:chunked layer: its TOC first, then files by their frames."""

import io
from collections.abc import Iterator
from typing import Final

import zstandard

from registry_proxy.lazy.failures import IndexInvalid, TocTooLarge
from registry_proxy.lazy.files import Read, read_exactly
from registry_proxy.lazy.frames import Frames
from registry_proxy.lazy.toc import MAX_TOC, TocIndex
from registry_proxy.lazy.toc import frames as frames_of_toc
from registry_proxy.lazy.zstd_chunked.footer import Position
from registry_proxy.plan.chunks import Span

_PIECE: Final = 1 << 20
_LARGEST_WINDOW: Final = 128 << 20
"""Bytes: what zstd's own decoder accepts unless told otherwise."""

_SKIPPABLE_HEADER: Final = 8


def toc_span(position: Position, size: int, most: int = MAX_TOC) -> Span:
    """Where a layer of ``size`` bytes keeps its TOC; raises IndexInvalid if it is not there, or has more than ``most`` bytes."""
    if position.offset < _SKIPPABLE_HEADER or position.offset + position.length > size:
        raise IndexInvalid("a zstd:chunked TOC that would lie outside the layer")
    if max(position.length, position.raw) > most:
        raise TocTooLarge(f"a zstd:chunked TOC larger than {most} bytes")
    return Span(position.offset, position.offset + position.length)


def open_index(position: Position, size: int, read: Read) -> TocIndex:
    """The index of a zstd:chunked layer; raises IndexInvalid."""
    toc = _toc(read_exactly(read, toc_span(position, size)), position)
    return TocIndex("zstd:chunked", toc, size, position.offset - _SKIPPABLE_HEADER, inflate)


def frames(position: Position, packed: bytes) -> Frames:
    """What the TOC at ``position`` says about the frames before it; raises IndexInvalid."""
    return frames_of_toc(_toc(packed, position), position.offset - _SKIPPABLE_HEADER, inflate)


def inflate(frame: bytes) -> Iterator[bytes]:
    """The bytes of zstd frames; raises IndexInvalid. What follows the last whole frame is cut short and gives no bytes."""
    decoder = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    try:
        with decoder.stream_reader(io.BytesIO(frame), read_across_frames=True) as stream:
            while piece := stream.read(_PIECE):
                yield piece
    except zstandard.ZstdError as error:
        raise IndexInvalid(f"a damaged zstd frame in the layer: {error}") from error


def _toc(packed: bytes, position: Position) -> bytes:
    if position.checksum is not None and not position.checksum.matches(packed):
        raise IndexInvalid("the layer's TOC does not hash to what its manifest says")
    found = bytearray()
    for piece in inflate(packed):
        found += piece
        if len(found) > position.raw:
            break
    if len(found) != position.raw:
        raise IndexInvalid("the layer's TOC is not as long as it says")
    return bytes(found)
