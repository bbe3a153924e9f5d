"""Whole layers that carry an index of their own (eStargz, zstd:chunked): footer, TOC, and the files read by it."""

from itertools import islice

from registry_proxy.lazy.failures import IndexInvalid
from registry_proxy.lazy.files import LayerIndex
from registry_proxy.lazy.frames import Frames
from registry_proxy.lazy.layers import own_index
from registry_proxy.plan.chunks import Span

MOST_FILES, MOST_PIECES = 16, 8


def run(data: bytes) -> None:
    """What the index says lies within the layer, and reading by it gives bytes or says why not."""
    try:
        index = own_index(len(data), {}, lambda span: data[span.start : span.stop])
    except IndexInvalid:
        return
    if index is not None:
        read(index, data)


def judge(frames: Frames, layer: bytes) -> None:
    """Compare some frames: each lies within the layer, and is right or wrong."""
    for number in range(min(len(frames), MOST_FILES)):
        span = frames.spans[number]
        assert 0 <= span.start <= span.stop <= len(layer)
        assert frames.is_right(number, layer[span.start : span.stop]) in {True, False}


def read(index: LayerIndex, layer: bytes) -> None:
    """Read some of every file; no more than a little memory is needed for one that claims to be huge."""
    for path, file in islice(index.files.items(), MOST_FILES):
        assert path == file.path
        assert file.size >= 0
        spans = index.spans(file)
        assert all(0 <= span.start < span.stop <= index.size for span in spans)
        index.covered(Span(0, index.size))
        try:
            for piece in islice(index.content(file, lambda span: layer[span.start : span.stop]), MOST_PIECES):
                assert len(piece) <= 1 << 20
        except IndexInvalid:
            pass
