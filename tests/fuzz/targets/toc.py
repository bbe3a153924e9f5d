"""The table of contents that eStargz and zstd:chunked share, as JSON."""

import contextlib
import gzip

from registry_proxy.lazy.estargz.index import inflate
from registry_proxy.lazy.failures import IndexInvalid
from registry_proxy.lazy.toc import TocIndex, frames
from tests.fuzz.targets.layers import judge, read

LAYER = b"".join(gzip.compress(bytes([number]) * 100, mtime=0) for number in range(8))


def run(data: bytes) -> None:
    """A TOC is read or refused; its files are read from a layer of a few members, and its frames are compared with it."""
    with contextlib.suppress(IndexInvalid):
        judge(frames(data, len(LAYER), inflate), LAYER)
    with contextlib.suppress(IndexInvalid):
        read(TocIndex("estargz", data, len(LAYER), len(LAYER), inflate), LAYER)
