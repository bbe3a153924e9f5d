"""Layers that nobody should have to index: refused, early, in little memory."""

import gzip
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.ztoc.bounds import Bounds
from registry_proxy.lazy.ztoc.builder import ZtocBuilder
from registry_proxy.lazy.ztoc.tar import TarScanner
from tests.lazy.layers import entry_tar, link, tar

MIB = 1 << 20
SMALL = Bounds(layer=64 * MIB, ratio=200, free=4 * MIB, index=MIB)


def index(layer: bytes, bounds: Bounds = SMALL, step: int = 4096) -> None:
    with ZtocBuilder(bounds=bounds) as builder:
        for at in range(0, len(layer), step):
            builder.feed(layer[at : at + step])
        builder.finish()


def checked(block: bytearray) -> bytes:
    """A tar header with its sum put right."""
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def header(edit: Callable[[bytearray], object]) -> bytes:
    """A gzip layer of one file whose header was changed."""
    plain = bytearray(tar({"file": b"data"}, tarfile.GNU_FORMAT))
    block = plain[:512]
    edit(block)
    return gzip.compress(checked(block) + bytes(plain[512:]))


def test_a_bomb_is_left_where_it_grows() -> None:
    """Zeros without end are refused for their ratio, after a small part of them, in little memory."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    layer = b"".join(packer.compress(bytes(MIB)) for _ in range(256))
    tracemalloc.start()
    try:
        with pytest.raises(LayerRefused, match="200-fold"):
            index(layer)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_a_layer_beyond_all_size_is_refused() -> None:
    """The bound on the uncompressed size holds whatever the ratio."""
    with pytest.raises(LayerRefused, match="larger than 100000 bytes"):
        index(gzip.compress(tar({"f": bytes(90_000)}) * 2), Bounds(layer=100_000, index=MIB))


def test_names_without_end_are_refused() -> None:
    """Entries that would fill the memory are refused."""
    layer = gzip.compress(entry_tar(tarfile.TarInfo(f"{i}") for i in range(3000)), 1)
    with pytest.raises(LayerRefused, match="index of the layer"):
        index(layer)


@pytest.mark.parametrize("cut", [0, 5, 30, 0.3, 0.9, -1, -8])
def test_a_truncated_layer_is_refused(cut: float) -> None:
    """A gzip stream that ends early has no index, wherever it ends."""
    layer = gzip.compress(tar({"f": bytes(range(256)) * 500}))
    with pytest.raises(LayerRefused):
        index(layer[: int(cut * len(layer)) if isinstance(cut, float) else cut])


def test_a_truncated_tar_is_refused() -> None:
    """A sound gzip stream of a tar that ends within a file or a header is refused."""
    plain = tar({"f": bytes(5000)})
    for stop in (700, 300, 5000):
        with pytest.raises(LayerRefused, match="cut short"):
            index(gzip.compress(plain[:stop]))


def test_a_missing_end_mark_is_forgiven() -> None:
    """A tar that just stops after its last file, padded or not, is indexed, as the reference tool does."""
    plain = tar({"f": bytes(700)})
    for stop in (512 + 700, 512 + 1024, 512 + 1024 + 512):
        index(gzip.compress(plain[:stop]))


@pytest.mark.parametrize("layer", [b"\x28\xb5\x2f\xfd" + bytes(20), tar({"f": b"x"}), b"\x1f\x8b\x09" + bytes(50)])
def test_other_formats_are_refused(layer: bytes) -> None:
    """zstd, plain tars and what only looks like gzip are told apart."""
    with pytest.raises(LayerRefused, match=r"zstd|not a gzip|not a sound gzip"):
        index(layer)


def test_a_layer_followed_by_anything_else_is_refused() -> None:
    """What stands behind the last gzip member must be a gzip member."""
    with pytest.raises(LayerRefused):
        index(gzip.compress(tar({"f": b"x"})) + b"rubbish of any kind")


@pytest.mark.parametrize(
    "edit",
    [
        lambda block: block.__setitem__(slice(124, 136), b"\x80" + b"\x7f" * 11),
        lambda block: block.__setitem__(slice(124, 136), b"\xff" * 12),
        lambda block: block.__setitem__(slice(124, 136), b"77777777777\0"),
        lambda block: block.__setitem__(slice(124, 136), b"not octal!!\0"),
        lambda block: block.__setitem__(slice(124, 136), b"0o000000004\0"),
        lambda block: block.__setitem__(slice(156, 157), b"S"),
        lambda block: block.__setitem__(slice(156, 157), b"g"),
        lambda block: block.__setitem__(slice(156, 157), b"7"),
        lambda block: block.__setitem__(slice(156, 157), b"1"),
    ],
    ids=["huge", "negative", "too large", "no number", "other digits", "sparse", "global", "unknown", "link with data"],
)
def test_headers_that_cannot_be(edit: Callable[[bytearray], object]) -> None:
    """Absurd sizes and types without a right index are refused."""
    with pytest.raises(LayerRefused):
        index(header(edit))


def test_a_damaged_header_is_refused() -> None:
    """A header whose sum is wrong is no header."""
    with pytest.raises(LayerRefused, match="damaged"):
        index(gzip.compress(b"g" + tar({"f": b"x"})[1:]))


@pytest.mark.parametrize(
    "records",
    [b"7 a=b\n", b"99999999999999999999 a=b\n", b"x", b"6 =bc\n", b"18 path=a\0b234567\n", b"12 size=abc\n", b"13 mtime=x.y\n",
     b"26 GNU.sparse.map=0,1,2,3\n", b"24 size=99999999999999\n"],
)  # fmt: skip
def test_pax_records_that_cannot_be(records: bytes) -> None:
    """Malformed records, and those that make a file what a zTOC cannot say, are refused."""
    block = bytearray(tar({"x": records}, tarfile.USTAR_FORMAT)[:1024])
    block[156:157] = b"x"
    plain = checked(block[:512]) + bytes(block[512:]) + tar({"f": b"x"})
    with pytest.raises(LayerRefused):
        index(gzip.compress(plain))


def test_an_endless_long_name_is_refused() -> None:
    """An extended header beyond a MiB is not collected."""
    info = tarfile.TarInfo("f")
    info.pax_headers = {"comment": "x" * (2 * MIB)}
    with pytest.raises(LayerRefused, match="extended header"):
        index(gzip.compress(entry_tar([info])))


@pytest.mark.parametrize("links", [[("a", "a")], [("a", "b"), ("b", "c"), ("c", "a")]])
def test_hard_links_in_a_circle_are_refused(links: list[tuple[str, str]]) -> None:
    """A link that leads to itself has no contents."""
    with pytest.raises(LayerRefused, match="circle"):
        index(gzip.compress(entry_tar(link(name, target) for name, target in links)))


def test_a_long_chain_of_links_takes_no_time() -> None:
    """Each link is followed once, however long the chain."""
    chain = [link(f"n{i}", f"n{i + 1}") for i in range(1500)]
    index(gzip.compress(entry_tar(chain)))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=3000), st.lists(st.tuples(st.integers(0, 2047), st.integers(0, 255)), max_size=6))
def test_any_bytes_are_refused_or_read(tail: bytes, edits: list[tuple[int, int]]) -> None:
    """The scanner gives entries or LayerRefused for whatever it is fed, nothing else."""
    plain = bytearray(tar({"a" * 120: b"1" * 600}, tarfile.PAX_FORMAT) + tail)
    for at, value in edits:
        plain[at] = value
    for block in range(0, 2048, 512):
        if plain[block + 257 : block + 262] == b"ustar":
            plain[block : block + 512] = checked(plain[block : block + 512])
    try:
        scanner = TarScanner(MIB, lambda _: None)
        scanner.feed(bytes(plain))
        scanner.finish()
    except LayerRefused:
        pass
