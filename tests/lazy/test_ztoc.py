"""zTOCs: equal to the reference tool's byte for byte, and files read through them."""

import contextlib
import gzip
import io
import random
import struct
import tarfile
import zlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_proxy.lazy.failures import FileUnknown, IndexInvalid
from registry_proxy.lazy.files import Read, normal_path, regular_file
from registry_proxy.lazy.ztoc.builder import ZtocBuilder
from registry_proxy.lazy.ztoc.index import ZtocIndex
from registry_proxy.lazy.ztoc.ztoc import Ztoc, encode, parse
from registry_proxy.plan.chunks import Span
from tests.lazy.conftest import Reference
from tests.lazy.layers import entry_tar, link, tar

LAYERS = ("82e09c79", "55e23ba6", "f60b23bb", "91139ed8")
RANDOM = random.Random(7)
NOISE = RANDOM.randbytes(300_000)
WORDS = b" ".join(RANDOM.choices([b"lorem", b"ipsum", b"dolor", b"sit", b"amet"], k=200_000))


def built(layer: bytes, step: int = 1 << 20, span_size: int = 4 << 20) -> Ztoc:
    with ZtocBuilder(span_size) as builder:
        for at in range(0, len(layer), step):
            builder.feed(layer[at : at + step])
        return builder.finish()


def reader(layer: bytes, log: list[Span] | None = None) -> Read:
    def read(span: Span) -> bytes:
        if log is not None:
            log.append(span)
        return layer[span.start : span.stop]

    return read


def contents(index: ZtocIndex, path: str, read: Read) -> bytes:
    return b"".join(index.content(regular_file(index, path), read))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("step", [1 << 20, 65_537, 4099])
def test_the_bytes_are_those_of_the_reference_tool(references: dict[str, Reference], name: str, step: int) -> None:
    """However the layer is cut while it streams by, its zTOC is the one that the reference tool writes."""
    assert encode(built(references[name].layer, step)) == references[name].ztoc


@pytest.mark.parametrize("name", LAYERS)
def test_a_parsed_ztoc_encodes_to_itself(references: dict[str, Reference], name: str) -> None:
    """Nothing of a zTOC is lost by reading it."""
    assert encode(parse(references[name].ztoc)) == references[name].ztoc


@pytest.mark.parametrize("name", LAYERS)
def test_every_file_is_read_through_its_spans(references: dict[str, Reference], name: str) -> None:
    """Each file's contents equal the tar's, and only bytes of its own spans are asked for."""
    layer = references[name].layer
    index = ZtocIndex(parse(references[name].ztoc))
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as archive:
        for member in archive:
            if not member.isreg():
                continue
            asked: list[Span] = []
            expected = archive.extractfile(member)
            assert expected is not None
            path = normal_path(member.name)
            assert contents(index, path, reader(layer, asked)) == expected.read()
            spans = index.spans(index.files[path])
            assert all(any(own.start <= span.start and span.stop <= own.stop for own in spans) for span in asked)


def test_a_small_file_costs_one_span(references: dict[str, Reference]) -> None:
    """A file is read from the span that it lies in, not from the start of the layer."""
    reference = references["82e09c79"]
    index = ZtocIndex(parse(reference.ztoc))
    [span] = index.spans(regular_file(index, "usr/last"))
    assert span.start > len(reference.layer) / 2
    file = index.files["usr/last"]
    assert file in index.covered(span)
    assert index.covered(Span(3, 3)) == ()


def test_spans_and_files_tell_the_same(references: dict[str, Reference]) -> None:
    """A file lies in each byte of its spans as seen from the other side; each byte of a payload is some file's."""
    for reference in references.values():
        index = ZtocIndex(parse(reference.ztoc))
        for file in index.files.values():
            for span in index.spans(file):
                assert file in index.covered(span)
        everything = index.covered(Span(0, index.size))
        assert {file.path for file in everything} == {file.path for file in index.files.values() if file.size}


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 200_000), min_size=1, max_size=5),
    level=st.sampled_from((0, 1, 6, 9)),
    cuts=st.lists(st.floats(0, 1), max_size=4),
    step=st.integers(500, 50_000),
)
def test_any_members_any_steps(sizes: list[int], level: int, cuts: list[float], step: int) -> None:
    """Any files in any number of gzip members, fed in any steps: one and the same zTOC, and each file can be read."""
    files = {f"f{i}": (NOISE if i % 2 else WORDS)[:size] for i, size in enumerate(sizes)}
    plain = tar(files)
    places = sorted({0, len(plain), *(int(cut * len(plain)) for cut in cuts)})
    members = [gzip.compress(plain[a:b], level, mtime=0) for a, b in pairwise(places)]
    layer = b"".join(members)
    ztoc = built(layer, step, span_size=30_000)
    assert ztoc == built(layer, len(layer), span_size=30_000)
    index = ZtocIndex(parse(encode(ztoc)))
    for path, data in files.items():
        assert contents(index, path, reader(layer)) == data


def test_a_header_of_any_length() -> None:
    """A gzip header with name and extra field is in no span but the layer's first bytes; files are read all the same."""
    raw = zlib.compressobj(6, zlib.DEFLATED, -15)
    plain = tar({"a": NOISE, "b": WORDS})
    head = b"\x1f\x8b\x08\x0c" + bytes(6) + struct.pack("<H", 5) + b"extra" + b"layer.tar\0"
    trailer = struct.pack("<II", zlib.crc32(plain), len(plain) & 0xFFFFFFFF)
    layer = head + raw.compress(plain) + raw.flush() + trailer
    assert contents(ZtocIndex(built(layer, 7)), "b", reader(layer)) == WORDS


def test_hard_links_are_followed() -> None:
    """A hard link's contents are its target's, through several links; symbolic links and directories have none."""
    info = tarfile.TarInfo("dir")
    info.type = tarfile.DIRTYPE
    plain = tar({"./a": b"data"})[:1024] + entry_tar([link("b", "./a"), link("c", "b"), info])
    layer = gzip.compress(plain)
    index = ZtocIndex(built(layer))
    assert contents(index, "/c", reader(layer)) == b"data"
    for path in ("dir", "nothing"):
        with pytest.raises(FileUnknown):
            regular_file(index, path)


def test_names_need_not_be_text() -> None:
    """A name that is not UTF-8 is kept as it is, and found under the name that Python gives such bytes."""
    layer = gzip.compress(tar({"caf\udce9": b"x"}, tarfile.GNU_FORMAT))
    ztoc = parse(encode(built(layer)))
    assert ztoc.entries[0].name == b"caf\xe9"
    assert contents(ZtocIndex(ztoc), "caf\udce9", reader(layer)) == b"x"


def test_an_empty_layer() -> None:
    """A tar of nothing, and nothing at all, have a zTOC without files."""
    for plain in (b"", bytes(1024)):
        index = ZtocIndex(parse(encode(built(gzip.compress(plain)))))
        assert index.files == {}
        assert index.covered(Span(0, index.size)) == ()


def test_other_bytes_are_not_given_out(references: dict[str, Reference]) -> None:
    """A span with one wrong byte, or one byte less, fails before any of its contents are given."""
    reference = references["55e23ba6"]
    index = ZtocIndex(parse(reference.ztoc))
    file = max(index.files.values(), key=lambda one: one.size)
    at = index.spans(file)[0].start + 1000
    wrong = bytearray(reference.layer)
    wrong[at] ^= 1
    for read in (reader(bytes(wrong)), lambda span: reference.layer[span.start : span.stop - 1]):
        with pytest.raises(IndexInvalid):
            next(iter(index.content(file, read)))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_ztoc_is_refused_or_harmless(data: st.DataObject) -> None:
    """Whatever is wrong in a zTOC, reading it gives a value or IndexInvalid, nothing else."""
    good = encode(built(gzip.compress(tar({"a": b"1" * 600, "b": b"2"}))))
    tables = len(good) - 400
    wrong = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, 80), st.integers(tables, len(good) - 1)))
        wrong[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from((len(good), len(good) // 2, 3, 0)))
    with contextlib.suppress(IndexInvalid):
        ZtocIndex(parse(bytes(wrong[:cut])))


def test_a_ztoc_that_repeats_itself_is_refused() -> None:
    """Thousands of files that share one long name cost no more memory than the zTOC has bytes, a few times over."""
    from registry_proxy.lazy.ztoc.flatbuffer import Writer

    out = Writer()
    version, name = out.string(b"0.9"), out.string(b"n" * 10_000)
    files = [out.table([(0, "o", name, 0)]) for _ in range(5000)]
    toc = out.table([(0, "o", out.offsets(files), 0)])
    info = out.table([(1, "i", 0, 0)])
    blob = out.finish(out.table([(0, "o", version, 0), (4, "o", toc, 0), (5, "o", info, 0)]))
    with pytest.raises(IndexInvalid, match="more text than bytes"):
        parse(blob)
