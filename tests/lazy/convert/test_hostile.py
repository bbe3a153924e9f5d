"""Layers that nobody should have to convert: refused, early, in little memory, and nothing is left of the copy."""

import gzip
import io
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_proxy.lazy.convert.layer import convert_layer
from registry_proxy.lazy.convert.tar import TarReader
from registry_proxy.lazy.convert.values import Options
from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.ztoc.bounds import Bounds
from tests.lazy import hard
from tests.lazy.hard import info
from tests.lazy.layers import entry_tar, link, tar

MIB = 1 << 20
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
SMALL = Bounds(layer=64 * MIB, ratio=200, free=4 * MIB, index=MIB)


def refused(layer: bytes, directory: Path, match: str, **options: object) -> None:
    """The layer is refused with these words, and nothing is left."""
    with pytest.raises(LayerRefused, match=match):
        convert_layer(io.BytesIO(layer), LAYER, directory / "copy", options=Options(bounds=SMALL, **options))  # type: ignore[arg-type]
    assert not list(directory.iterdir())


def gzip_bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(tar({"f": bytes(256)})[:512].replace(b"00000000400", b"00100000000")) + b"".join(
        packer.compress(bytes(MIB)) for _ in range(128)
    )


@pytest.mark.parametrize("bomb", [gzip_bomb(), gzip.compress(bytes(1024)) + gzip_bomb(),
                                  zstandard.ZstdCompressor().compress(bytes(200 * MIB))])  # fmt: skip
def test_a_bomb_is_left_where_it_grows(bomb: bytes, tmp_path: Path) -> None:
    """Zeros without end are refused for their ratio, in little memory, also behind the tar's end."""
    tracemalloc.start()
    try:
        refused(bomb, tmp_path, "200-fold|goes on|damaged")
        assert tracemalloc.get_traced_memory()[1] < 48 * MIB
    finally:
        tracemalloc.stop()


def sparse_bomb(size: int) -> bytes:
    """A file of this size without a byte of data."""
    header = info("hole", pax_headers={
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "hole", "GNU.sparse.realsize": str(size),
    }, size=512)  # fmt: skip
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(header, io.BytesIO(b"0\n".ljust(512, b"\0")))
    return out.getvalue()


@pytest.mark.parametrize("prioritized", [(), ("hole",)])
def test_a_sparse_bomb(prioritized: tuple[str, ...], tmp_path: Path) -> None:
    """A hole counts for what it unpacks to."""
    refused(gzip.compress(sparse_bomb(60 * MIB)), tmp_path, "200-fold", prioritized=prioritized)
    refused(gzip.compress(sparse_bomb(1 << 60)), tmp_path, "cannot be right")


@pytest.mark.parametrize("cut", [1, 5, 30, 0.3, 0.9, -1, -8])
def test_a_truncated_gzip_layer(cut: float, tmp_path: Path) -> None:
    """A stream that ends early has no copy, wherever it ends."""
    layer = gzip.compress(tar({"f": hard.NOISE[:100_000]}))
    refused(layer[: int(cut * len(layer)) if isinstance(cut, float) else cut], tmp_path, ".")


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_truncated_zstd_layer(cut: float, tmp_path: Path) -> None:
    """Of a zstd layer the tar's end must be there."""
    layer = zstandard.ZstdCompressor().compress(tar({"f": hard.NOISE, "g": hard.NOISE}))
    refused(layer[: int(cut * len(layer))], tmp_path, "cut short")


def test_a_zstd_layer_without_the_tars_end(tmp_path: Path) -> None:
    """Cut between two files, nothing else would tell."""
    refused(zstandard.ZstdCompressor().compress(tar({"f": b"x"})[:1024]), tmp_path, "cut short")


@pytest.mark.parametrize("damage", [gzip.compress(tar({"f": b"x"})) + b"rubbish of any kind",
                                    gzip.compress(tar({"f": b"x"}))[:-6] + bytes(6), b"\x28\xb5\x2f\xfd" + b"\xff" * 40])  # fmt: skip
def test_damaged_streams(damage: bytes, tmp_path: Path) -> None:
    """Rubbish behind the end, a wrong check sum, no frame."""
    refused(damage, tmp_path, "not a sound")


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ([link("a", "a")], "no file before it"),
        ([link("a", "b"), link("b", "a")], "no file before it"),
        ([info("d", type=tarfile.DIRTYPE), link("l", "d")], "no file before it"),
        ([info("f"), info("f/below")], "lies below a reg"),
        ([info("lib", type=tarfile.SYMTYPE, linkname="usr/lib"), info("lib/deep/below")], "lies below a symlink"),
        ([info("a\udcff"), info("a\udcfe")], "UTF-8"),
        ([info(f"{number}") for number in range(5000)], "index of the layer"),
        ([info("v", type=b"V")], "no word"),
        ([info("c", type=b"7")], "no word"),
    ],
)
@pytest.mark.parametrize("prioritized", [(), ("f", "a", "l")])
def test_entries_that_no_copy_can_hold(
    entries: list[tarfile.TarInfo], match: str, prioritized: tuple[str, ...], tmp_path: Path
) -> None:
    """Circles of hard links, files as directories, names that would become one, names without end."""
    refused(gzip.compress(entry_tar(entries)), tmp_path, match, prioritized=prioritized)


@pytest.mark.parametrize("media_type", ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "text/plain", ""])
def test_what_is_no_layer(media_type: str, tmp_path: Path) -> None:
    """Encrypted layers and other blobs are told by their media type."""
    with pytest.raises(LayerRefused, match="not a layer"):
        convert_layer(io.BytesIO(gzip.compress(tar({}))), media_type, tmp_path / "copy")


def test_extended_headers_without_end(tmp_path: Path) -> None:
    """Header upon header, and no entry."""
    block = bytearray(tar({"x": b"7 a=bc\n" * 70_000}, tarfile.USTAR_FORMAT)[: 512 * 959])
    block[156:157] = b"x"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    refused(bytes(block) * 20, tmp_path, "have no end")


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """However large the file, only some chunks of it are held."""
    layer = gzip.compress(tar({"f": hard.NOISE * 200}), 1)
    tracemalloc.start()
    try:
        convert_layer(io.BytesIO(layer), LAYER, tmp_path / "copy", options=Options(chunk_size=MIB))
        assert tracemalloc.get_traced_memory()[1] < 40 * MIB
    finally:
        tracemalloc.stop()


def test_entries_without_contents_do_not_pile_up(tmp_path: Path) -> None:
    """Where no file begins a new member, headers begin one now and then."""
    layer = tar({"first": b"1"})[:1024] + entry_tar(info(f"{number}") for number in range(4000))
    convert_layer(io.BytesIO(layer), LAYER, tmp_path / "copy", options=Options(chunk_size=100_000))
    sizes, rest = [], (tmp_path / "copy").read_bytes()
    while rest:
        member = zlib.decompressobj(31)
        sizes.append(len(member.decompress(rest)))
        rest = member.unused_data
    assert sum(sizes) > 4000 * 512
    assert max(sizes) < 1_000_000


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["sparse 1.0", "sparse gnu", "sparse 0.0", "gnu"]),
    st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=6),
    st.integers(512, 1 << 16),
)
def test_any_bytes_are_refused_or_read(name: str, edits: list[tuple[int, int]], step: int) -> None:
    """The reader gives entries and as many bytes as they say, or LayerRefused, nothing else."""
    damaged = bytearray(hard.TARS[name][:20_000] + bytes(1024))
    for at, value in edits:
        damaged[at] = value
    for at in range(0, 4096, 512):
        block = damaged[at : at + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            damaged[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    reader = TarReader((bytes(damaged[at : at + step]) for at in range(0, len(damaged), step)), SMALL)
    try:
        while item := reader.next():
            assert sum(map(len, reader.content())) == item.entry.size
    except LayerRefused:
        pass
