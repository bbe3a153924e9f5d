"""How a chunk lies in its file."""

import gzip
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.tiers import chunkfile
from registry_proxy.tiers.chunkfile import BLOCK, TRAILER

TEXT = b"usr/lib/python3.11/site-packages/numpy/core\n" * 30_000


def written(path: Path, body: bytes) -> int:
    """A chunk file with this body, open for reading; the caller closes it."""
    path.write_bytes(body + bytes(TRAILER))
    return os.open(path, os.O_RDONLY)


def test_text_is_compressed_and_gzip_is_not() -> None:
    """Only what gets smaller by an eighth or more is kept as a frame."""
    frame = chunkfile.compress(TEXT)
    assert frame is not None
    assert len(frame) <= len(TEXT) * 7 // 8
    layer = gzip.compress(random.Random(1).randbytes(1 << 20))
    assert chunkfile.compress(layer) is None
    assert chunkfile.compress(b"") is None


@given(st.data())
def test_any_slice_of_a_frame_is_that_slice_of_the_chunk(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A compressed chunk reads as if it lay as it is, at any offsets."""
    size = data.draw(st.integers(1, 5 * BLOCK))
    noisy = data.draw(st.integers(0, size))
    chunk = (random.Random(noisy).randbytes(noisy) + TEXT * 2)[:size]
    frame = chunkfile.lz4.frame.compress(
        chunk, block_size=chunkfile.lz4.frame.BLOCKSIZE_MAX64KB, block_linked=False, store_size=True
    )
    descriptor = written(tmp_path_factory.mktemp("slice") / "chunk", frame)
    try:
        reader = chunkfile.interpret(descriptor, len(frame) + TRAILER, size, compressed=True)
        assert reader is not None
        start = data.draw(st.integers(0, size))
        stop = data.draw(st.integers(start, size))
        assert reader.read(start, stop) == chunk[start:stop]
    finally:
        os.close(descriptor)


@given(st.data())
def test_a_damaged_frame_is_refused_or_fails_to_hash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever is overwritten or cut off in a frame: no chunk, an OSError, or bytes that the hash gives away; nothing else."""
    chunk = TEXT[: 2 * BLOCK + 99]
    frame = bytearray(chunkfile.compress(chunk) or b"")
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at : at + 4] = data.draw(st.binary(min_size=0, max_size=4))
    descriptor = written(tmp_path_factory.mktemp("damage") / "chunk", bytes(frame))
    try:
        reader = chunkfile.interpret(descriptor, len(frame) + TRAILER, len(chunk), compressed=True)
        sha256 = chunkfile.hashlib.sha256(chunk).digest()
        if reader is not None and chunkfile.is_intact(reader, sha256):
            assert reader.read(0, len(chunk)) == chunk
    except OSError:
        pass
    finally:
        os.close(descriptor)


def test_a_file_of_another_size_holds_no_chunk(tmp_path: Path) -> None:
    """A chunk that lies as it is has exactly its bytes and the trailer."""
    descriptor = written(tmp_path / "chunk", b"x" * 100)
    try:
        assert chunkfile.interpret(descriptor, 132, 100, compressed=False) is not None
        assert chunkfile.interpret(descriptor, 132, 99, compressed=False) is None
        assert chunkfile.interpret(descriptor, 132, 101, compressed=False) is None
    finally:
        os.close(descriptor)


def test_a_read_beyond_the_end_fails_instead_of_being_short(tmp_path: Path) -> None:
    """A file cut short after it was opened gives an error, never fewer bytes."""
    path = tmp_path / "chunk"
    descriptor = written(path, b"x" * 100)
    try:
        reader = chunkfile.interpret(descriptor, 132, 100, compressed=False)
        assert reader is not None
        os.truncate(path, 50)
        with pytest.raises(OSError, match="ends early"):
            reader.read(0, 100)
    finally:
        os.close(descriptor)
