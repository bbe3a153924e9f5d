"""zTOCs, and files of a layer read through them."""

import contextlib
import gzip
import random

from registry_proxy.lazy.failures import IndexInvalid
from registry_proxy.lazy.ztoc import ztoc
from registry_proxy.lazy.ztoc.index import ZtocIndex
from tests.fuzz.targets.layers import judge, read

LAYER = gzip.compress(random.Random(1).randbytes(4096), mtime=0)


def run(data: bytes) -> None:
    """A zTOC is read or refused; its files are read from a layer that need not be the one it was made for."""
    with contextlib.suppress(IndexInvalid):
        found = ztoc.parse(data, files=False)
        if found.compressed == len(LAYER):
            judge(ztoc.frames(found), LAYER)
    with contextlib.suppress(IndexInvalid):
        read(ZtocIndex(ztoc.parse(data)), LAYER)
