"""How one chunk lies in its file: its bytes, or an lz4 frame of them, then their sha-256 as a trailer of 32 bytes.

A frame is used where it saves at least an eighth, as for uncompressed layers. Its blocks hold 64 KiB each and do not refer to
each other, so that a slice costs the blocks it touches and not the chunk. Only frames with exactly the header written here are
read back (LZ4 frame format 1.6.x: magic, flags, block size, content size, header checksum; no dictionary, no checksums, which
the trailer makes superfluous).
"""

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import lz4.block
import lz4.frame

Buffer = bytes | bytearray | memoryview

TRAILER: Final = 32
BLOCK: Final = 64 << 10
PAGE: Final = 4096

_HEADER = struct.Struct("<IBBQB")
_MAGIC: Final = 0x184D2204
_FLAGS: Final = 0x68  # version 1, independent blocks, content size
_BLOCK_64K: Final = 0x40
_BLOCK_SIZE = struct.Struct("<I")
_STORED: Final = 1 << 31
_READ: Final = 1 << 20


class Reader(Protocol):
    """Something that lies in a file and can be read piece by piece."""

    @property
    def length(self) -> int:
        """Bytes of the chunk."""

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)`` of the chunk; raises OSError, never returns fewer."""


def cost(size: int) -> int:
    """Bytes that a file of ``size`` bytes takes on disk: whole pages."""
    return -(-size // PAGE) * PAGE


def compress(data: Buffer) -> bytes | None:
    """An lz4 frame of the chunk if that saves at least an eighth. A sample from the middle decides whether to try."""
    view = memoryview(data)
    middle = max(len(view) - BLOCK, 0) // 2
    sample = view[middle : middle + BLOCK]
    if not _saves_enough(len(lz4.block.compress(sample, store_size=False)), len(sample)):
        return None
    frame: bytes = lz4.frame.compress(
        view, block_size=lz4.frame.BLOCKSIZE_MAX64KB, block_linked=False, content_checksum=False, store_size=True
    )
    return frame if _saves_enough(len(frame), len(view)) else None


def _saves_enough(packed: int, plain: int) -> bool:
    return packed * 8 <= plain * 7


def write(descriptor: int, body: Buffer, sha256: bytes) -> None:
    """Write a chunk file: the chunk or its frame, then the trailer."""
    for part in (body, sha256):
        view = memoryview(part)
        while view:
            view = view[os.write(descriptor, view) :]


@dataclass(frozen=True, slots=True)
class RawChunk:
    """A chunk that lies as it is in an open file. ``length``: its bytes."""

    descriptor: int
    length: int

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)`` of the chunk; raises OSError, never returns fewer."""
        data = os.pread(self.descriptor, stop - start, start)
        if len(data) != stop - start:
            raise OSError(f"chunk file ends early: {len(data)} bytes where {stop - start} should be")
        return data


@dataclass(frozen=True, slots=True)
class Block:
    """Where one block of a frame lies in the file. ``stored``: it is not compressed; ``plain``: bytes once unpacked."""

    start: int
    stop: int
    stored: bool
    plain: int


@dataclass(frozen=True, slots=True)
class Lz4Chunk:
    """A chunk that lies as an lz4 frame in an open file. ``length``: bytes once unpacked."""

    descriptor: int
    length: int
    blocks: tuple[Block, ...]

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)`` of the chunk; raises OSError, never returns fewer."""
        if start >= stop:
            return b""
        first = start // BLOCK
        touched = self.blocks[first : -(-stop // BLOCK)]
        base = touched[0].start
        packed = memoryview(_pread(self.descriptor, base, touched[-1].stop))
        plain = b"".join(_unpack(packed[block.start - base : block.stop - base], block) for block in touched)
        return plain[start - first * BLOCK : stop - first * BLOCK]


def _unpack(packed: memoryview, block: Block) -> bytes | memoryview:
    if block.stored:
        return packed
    try:
        plain: bytes = lz4.block.decompress(packed, uncompressed_size=block.plain)
    except lz4.block.LZ4BlockError as error:
        raise OSError(f"chunk file is not lz4: {error}") from error
    if len(plain) != block.plain:
        raise OSError("chunk file has an lz4 block of the wrong size")
    return plain


def _pread(descriptor: int, start: int, stop: int) -> bytes:
    data = os.pread(descriptor, stop - start, start)
    if len(data) != stop - start:
        raise OSError("chunk file ends early")
    return data


def interpret(descriptor: int, size: int, length: int, compressed: bool) -> RawChunk | Lz4Chunk | None:
    """The chunk of ``length`` bytes in an open file of ``size`` bytes; None if the file cannot hold it. Raises OSError."""
    if not compressed:
        return RawChunk(descriptor, length) if size == length + TRAILER else None
    if plain_length(descriptor, size) != length:
        return None
    blocks = tuple(_blocks(descriptor, size - TRAILER, length))
    return Lz4Chunk(descriptor, length, blocks) if sum(block.plain for block in blocks) == length else None


def plain_length(descriptor: int, size: int) -> int | None:
    """Bytes in the chunk that an lz4 chunk file of ``size`` bytes says it holds; None if it is not one of ours."""
    if size < _HEADER.size + TRAILER:
        return None
    magic, flags, block_size, length, _ = _HEADER.unpack(_pread(descriptor, 0, _HEADER.size))
    return int(length) if (magic, flags, block_size) == (_MAGIC, _FLAGS, _BLOCK_64K) else None


def _blocks(descriptor: int, end: int, length: int) -> Iterator[Block]:
    """The blocks of a frame that ends at ``end``; fewer than make up ``length`` if the frame is broken."""
    position = _HEADER.size
    for left in range(length, 0, -BLOCK):
        if position + _BLOCK_SIZE.size > end:
            return
        (word,) = _BLOCK_SIZE.unpack(_pread(descriptor, position, position + _BLOCK_SIZE.size))
        start = position + _BLOCK_SIZE.size
        position = start + (word & ~_STORED)
        stored = bool(word & _STORED)
        plain = min(left, BLOCK)
        if position > end or (stored and position - start != plain):
            return
        yield Block(start, position, stored, plain)


def trailer(descriptor: int, size: int) -> bytes:
    """The sha-256 that the file of ``size`` bytes claims for its chunk; raises OSError."""
    return _pread(descriptor, size - TRAILER, size)


def is_intact(chunk: Reader, sha256: bytes) -> bool:
    """True if the chunk hashes to ``sha256``. Takes about 520 µs per MiB: call it in a thread."""
    hasher = hashlib.sha256(usedforsecurity=False)
    try:
        for start in range(0, chunk.length, _READ):
            hasher.update(chunk.read(start, min(start + _READ, chunk.length)))
    except OSError:
        return False
    return hasher.digest() == sha256
