"""Layers that carry an index: eStargz and zstd:chunked found by annotation or footer, files read by their frames."""

import gzip
import json
from collections.abc import Mapping

import pytest

from registry_proxy.lazy.estargz import footer as estargz_footer
from registry_proxy.lazy.estargz.index import inflate
from registry_proxy.lazy.failures import IndexInvalid
from registry_proxy.lazy.files import Extent, Extents, LayerFile, LayerIndex, Read, joined, regular_file
from registry_proxy.lazy.layers import own_index
from registry_proxy.lazy.toc import TocIndex
from registry_proxy.lazy.zstd_chunked import footer as zstd_footer
from registry_proxy.plan.chunks import Span
from tests.lazy.layers import estargz, sha256, tar, zstd_chunked

FILES = {
    "./etc/passwd": b"root",
    "usr/lib/big": bytes(range(256)) * 17,
    "empty": b"",
    ".no.prefetch.landmark": b"\x0f",
}


def test_a_large_member_ends_where_the_next_one_begins() -> None:
    """Members of any size in one frame are inflated one after the other, each once."""
    large, small = bytes(range(256)) * 9000, b"the next one"
    assert b"".join(inflate(gzip.compress(large) + gzip.compress(small))) == large + small
    assert all(len(piece) <= 1 << 20 for piece in inflate(gzip.compress(large)))


def reader(layer: bytes) -> Read:
    return lambda span: layer[span.start : span.stop]


def opened(layer: bytes, annotations: Mapping[str, str]) -> LayerIndex:
    found = own_index(len(layer), annotations, reader(layer))
    assert found is not None
    return found


def every_layer() -> list[tuple[str, bytes, dict[str, str]]]:
    current, toc = estargz(FILES)
    found = [
        ("estargz", current, {estargz_footer.TOC_DIGEST: sha256(toc)}),
        ("estargz", current, {}),
        ("estargz", estargz(FILES, legacy=True)[0], {}),
    ]
    for dialect in ("storage", "stargz"):
        layer, annotations = zstd_chunked(FILES, dialect)
        found += [("zstd:chunked", layer, annotations), ("zstd:chunked", layer, {})]
    return found


@pytest.mark.parametrize(
    ("name", "layer", "annotations"),
    every_layer(),
    ids=["digest", "footer", "legacy", "storage", "storage footer", "stargz", "stargz footer"],
)
class TestLayers:
    def test_every_file_is_read_by_its_own_frames(self, name: str, layer: bytes, annotations: dict[str, str]) -> None:
        """Contents are right, and nothing outside the file's spans is read."""
        index = opened(layer, annotations)
        assert (index.format, index.size) == (name, len(layer))
        for path, data in FILES.items():
            file = regular_file(index, path)
            spans = index.spans(file)
            blanked = bytearray(len(layer))
            for span in spans:
                blanked[span.start : span.stop] = layer[span.start : span.stop]
            assert b"".join(index.content(file, reader(bytes(blanked)))) == data
            assert bool(spans) == bool(data)

    def test_bytes_to_files_and_back(self, name: str, layer: bytes, annotations: dict[str, str]) -> None:
        """Any byte of a file's span is that file's, and the layer's last byte is nobody's."""
        index = opened(layer, annotations)
        for file in index.files.values():
            for span in index.spans(file):
                assert index.covered(Span(span.start, span.start + 1)) == (file,)
                assert index.covered(Span(span.stop - 1, span.stop)) == (file,)
        assert index.covered(Span(len(layer) - 1, len(layer))) == ()

    def test_another_chunk_is_not_given_out(self, name: str, layer: bytes, annotations: dict[str, str]) -> None:
        """A chunk swapped for another sound one fails by its digest, one cut short by its length."""
        index = opened(layer, annotations)
        big = regular_file(index, "usr/lib/big")
        assert isinstance(index, TocIndex)
        first, *_, last = [chunk.span for chunk in index.chunks(big)]
        other = index.spans(regular_file(index, "etc/passwd"))[0]
        assert first is not None
        assert last is not None
        frame = layer[other.start : other.stop]
        with pytest.raises(IndexInvalid):
            list(index.content(big, lambda span: frame.ljust(len(span), b"\0")))
        with pytest.raises(IndexInvalid):
            list(index.content(big, lambda span: layer[span.start : span.stop - 1]))


def test_a_hole_needs_no_bytes() -> None:
    """A chunk of zeros in containers/storage's dialect has no span; its contents are zeros all the same."""
    index = opened(*zstd_chunked(FILES, "storage"))
    hole = regular_file(index, "hole")
    assert index.spans(hole) == ()
    assert b"".join(index.content(hole, lambda _: b"never")) == bytes(3000)


def test_a_toc_of_another_digest_is_refused() -> None:
    """What the manifest says about the TOC holds, in every format."""
    layer, _ = estargz(FILES)
    with pytest.raises(IndexInvalid, match="does not hash"):
        opened(layer, {estargz_footer.TOC_DIGEST: sha256(b"other")})
    with pytest.raises(IndexInvalid, match="malformed"):
        opened(layer, {estargz_footer.TOC_DIGEST: "sha256:xyz"})
    for dialect in ("storage", "stargz"):
        layer, annotations = zstd_chunked(FILES, dialect)
        wrong = {key: sha256(b"other") if key.endswith("checksum") else text for key, text in annotations.items()}
        with pytest.raises(IndexInvalid, match="does not hash"):
            opened(layer, wrong)


@pytest.mark.parametrize("layer", [b"", b"x", bytes(200), tar({"f": b"x" * 500})])
def test_a_layer_without_an_index_has_none(layer: bytes) -> None:
    """Whatever is neither format, or too short to be one, is told by None."""
    assert own_index(len(layer), {}, reader(layer)) is None


def test_a_toc_that_is_kept_elsewhere_is_told() -> None:
    """The external footer says that there is a TOC but not in the layer; such a layer carries no index."""
    footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x15\0SG\x11\0STARGZEXTERNALTOC\x01\0\0\xff\xff" + bytes(8)
    assert estargz_footer.parse(b"before" + footer) == estargz_footer.Footer(46, None)
    assert own_index(100, {}, reader(bytes(100 - 46) + footer)) is None


def test_positions_outside_the_layer_are_refused() -> None:
    """Footers and annotations are claims: what they point at must lie in the layer."""
    layer, _ = estargz(FILES)
    beyond = layer[:-51] + layer[-51:].replace(layer[-35:-19], b"%016x" % (1 << 40))
    with pytest.raises(IndexInvalid, match="outside"):
        opened(beyond, {})
    for position in ("9999999:10:10:1", "0:10:10:1", "20:10:999999999999:1"):
        key = "io.github.containers.zstd-chunked.manifest-position"
        with pytest.raises(IndexInvalid):
            own_index(1000, {key: position}, reader(bytes(1000)))
    assert zstd_footer.of_annotations({"io.containers.zstd-chunked.manifest-position": "1:2:3:2"}) is None


def toc(*entries: dict[str, object], version: int = 1) -> bytes:
    return json.dumps({"version": version, "entries": entries}).encode()


@pytest.mark.parametrize(
    "document",
    [
        b"{",
        b"[]",
        toc(version=2),
        toc({"name": "c", "type": "chunk", "offset": 1, "chunkSize": 1}),
        toc({"name": "f", "type": "reg", "size": 5, "offset": 5000}),
        toc({"name": "f", "type": "reg", "size": 5, "offset": -1}),
        toc({"name": "f", "type": "reg", "size": 5, "offset": 9, "endOffset": 4}),
        toc({"name": "f", "type": "reg", "size": 5, "offset": 9, "chunkSize": 4}),
        toc({"name": "f", "type": "reg", "size": 5, "offset": 9, "chunkSize": 6}),
        toc({"name": "f", "type": "reg", "size": 5, "offset": 9, "innerOffset": -3}),
        toc({"name": "f", "type": "reg", "size": 5, "offset": 9, "digest": "md5:x"}),
        toc({"name": "f", "type": "reg", "size": -5}),
    ],
)
def test_a_toc_that_contradicts_itself_is_refused(document: bytes) -> None:
    """A TOC is JSON of version 1 whose chunks lie in the layer and fill their files."""
    with pytest.raises(IndexInvalid):
        TocIndex("estargz", document, 1000, 900, lambda frame: iter((frame,)))


def test_files_may_share_a_frame() -> None:
    """Several small files in one frame are told apart by their inner offsets, and all of them lie in its bytes."""
    document = toc(
        {"name": "a", "type": "reg", "size": 3, "offset": 10},
        {"name": "b", "type": "reg", "size": 4, "offset": 10, "innerOffset": 3},
    )
    index = TocIndex("estargz", document, 30, 17, lambda frame: iter((frame[:2], frame[2:])))
    layer = bytes(10) + b"aaabbbb" + bytes(13)
    assert b"".join(index.content(index.files["a"], reader(layer))) == b"aaa"
    assert b"".join(index.content(index.files["b"], reader(layer))) == b"bbbb"
    assert [file.path for file in index.covered(Span(16, 17))] == ["a", "b"]


def test_extents_find_what_reaches_in() -> None:
    """A long extent is found behind short ones that begin after it; what only touches is not."""
    long, short = LayerFile("long", "reg", 100), LayerFile("short", "reg", 1)
    extents = Extents([Extent(0, 100, long), Extent(10, 11, short)])
    assert extents.within(50, 60) == (long,)
    assert extents.within(10, 11) == (long, short)
    assert extents.within(100, 200) == ()


def test_spans_that_touch_become_one() -> None:
    """In order, without empty ones."""
    assert joined([Span(5, 9), Span(0, 5), Span(3, 3), Span(12, 13)]) == (Span(0, 9), Span(12, 13))
