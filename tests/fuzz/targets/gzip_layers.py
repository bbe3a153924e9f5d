"""gzip layers on their way into a zTOC: zlib's own inflate, driven by hand. The first byte says whether the tar is to be packed first."""

import gzip

from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.ztoc import ztoc
from registry_proxy.lazy.ztoc.bounds import Bounds
from registry_proxy.lazy.ztoc.builder import ZtocBuilder
from registry_proxy.lazy.ztoc.index import ZtocIndex
from tests.fuzz.targets.layers import read
from tests.fuzz.targets.tars import summed

BOUNDS = Bounds(layer=1 << 24, ratio=200, free=1 << 20, index=1 << 22)


def run(data: bytes) -> None:
    """A zTOC that is made can be read again and is the same, and so are the files that it leads to."""
    layer = gzip.compress(summed(data[1:]), 1, mtime=0) if data[:1] < b"\x80" else data[1:]
    with ZtocBuilder(span_size=1024, bounds=BOUNDS) as builder:
        try:
            for at in range(0, len(layer), 300):
                builder.feed(layer[at : at + 300])
            made = builder.finish()
        except LayerRefused:
            return
    read(ZtocIndex(ztoc.parse(ztoc.encode(made))), layer)
