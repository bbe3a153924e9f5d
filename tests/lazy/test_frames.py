"""What a layer's TOC says about its frames."""

from collections.abc import Iterator

import pytest

from registry_proxy.lazy import layers
from registry_proxy.lazy.estargz.footer import TOC_DIGEST
from registry_proxy.lazy.failures import IndexInvalid
from registry_proxy.lazy.frames import Content, Frames
from registry_proxy.lazy.ztoc import ztoc
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from tests.lazy.conftest import Reference
from tests.lazy.layers import estargz, sha256, zstd_chunked

FILES = {"etc/passwd": b"root", "usr/lib/big": bytes(range(256)) * 17, "empty": b""}


def frames_of(layer: bytes, annotations: dict[str, str]) -> Frames:
    """As a running instance has them."""
    proving = layers.proving(annotations)
    last = layers.tail(len(layer), proving)
    toc = layers.toc(len(layer), proving, layer[last.start : last.stop] if last else b"")
    return toc.frames(layer[toc.span.start : toc.span.stop])


def made(form: str) -> tuple[bytes, dict[str, str]]:
    if form == "estargz":
        data, toc = estargz(FILES)
        return data, {TOC_DIGEST: sha256(toc)}
    return zstd_chunked(FILES, form)


@pytest.mark.parametrize("form", ["estargz", "storage", "stargz"])
class TestFrames:
    def test_right_frames_are_right_and_changed_ones_are_not(self, form: str) -> None:
        """Every frame of contents is known; with one bit changed it is wrong, but for bits that say nothing about contents."""
        layer, annotations = made(form)
        frames = frames_of(layer, annotations)
        assert len(frames) == 6
        for number in range(len(frames)):
            frame = layer[frames.spans[number].start : frames.spans[number].stop]
            assert frames.is_right(number, frame)
            changed = [frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :] for at in range(len(frame))]
            unnoticed = sum(frames.is_right(number, one) for one in changed)
            assert unnoticed <= 7  # gzip's time and system, zstd's last block

    def test_frames_are_those_that_files_are_read_from(self, form: str) -> None:
        """The frames together are what the index of the layer has for its files."""
        layer, annotations = made(form)
        frames = frames_of(layer, annotations)
        index = layers.own_index(len(layer), annotations, lambda span: layer[span.start : span.stop])
        assert index is not None
        ours = {frames.spans[number].start for number in range(len(frames))}
        assert {span.start for file in index.files.values() for span in index.spans(file)} <= ours

    def test_another_toc_is_refused(self, form: str) -> None:
        """It does not hash to what the manifest says."""
        layer, annotations = made(form)
        name = next(name for name in annotations if "position" not in name)
        with pytest.raises(IndexInvalid):
            frames_of(layer, annotations | {name: sha256(b"another")})

    def test_a_toc_that_would_take_too_much_is_refused(self, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A bound holds for its bytes, packed and unpacked."""
        layer, annotations = made(form)
        monkeypatch.setattr(layers, "LARGEST_TOC", 1000)
        with pytest.raises(IndexInvalid):
            frames_of(layer, annotations)


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {"containerd.io/snapshot/stargz/toc.digest": "sha256:12"},
        {"io.github.containers.zstd-chunked.manifest-position": "9:9:9:1"},
        {"io.containers.zstd-chunked.manifest-checksum": sha256(b"")},
        {"org.opencontainers.image.title": "layer"},
    ],
)
def test_what_does_not_say_where_and_what_proves_nothing(annotations: dict[str, str]) -> None:
    """Only an annotation with a digest of the TOC makes one that chunks can be compared with."""
    assert layers.proving(annotations) == {}


def test_a_layer_without_the_footer_is_refused() -> None:
    """A manifest may promise a TOC that is not there."""
    with pytest.raises(IndexInvalid):
        frames_of(bytes(5000), {TOC_DIGEST: sha256(b"")})


def test_spans_of_a_ztoc_are_frames(references: dict[str, Reference]) -> None:
    """The digests of the reference tool's own zTOCs fit the layers, and nothing else."""
    for one in references.values():
        frames = ztoc.frames(ztoc.parse(one.ztoc, files=False))
        assert len(frames) >= 1
        assert frames.spans[len(frames) - 1].stop == len(one.layer)
        for number in range(len(frames)):
            frame = one.layer[frames.spans[number].start : frames.spans[number].stop]
            assert frames.is_right(number, frame)
            assert not frames.is_right(number, frame[:-1])


def test_what_would_cost_too_much_is_left_out() -> None:
    """A frame of 17 MiB, one that holds a gibibyte, and one whose contents overlap a hundred thousand times."""
    sum_ = bytes.fromhex(Digest.of(b"").hex)
    found = {
        Span(0, 17 << 20): [Content(0, 1, sum_)],
        Span(1, 2): [Content(1 << 30, 1, sum_)],
        Span(2, 3): [Content(0, 1000, sum_)] * 100_000,
        Span(3, 4): [Content(0, 0, sum_)],
    }
    frames = Frames(found, None)
    assert len(frames) == 1
    assert frames.is_right(0, b"x")


def test_a_bomb_is_not_inflated_to_its_end() -> None:
    """Not more of it than its contents and a little is taken into memory."""
    taken: list[int] = []

    def endless(_: bytes) -> Iterator[bytes]:
        while True:
            taken.append(1)
            yield bytes(1 << 20)

    frames = Frames({Span(0, 1): [Content(0, 4, bytes.fromhex(Digest.of(bytes(4)).hex))]}, endless)
    assert frames.is_right(0, b"x")
    assert len(taken) == 2
