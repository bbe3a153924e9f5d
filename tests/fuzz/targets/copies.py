"""Hostile layers on their way into eStargz copies. The first byte says whether a tar is to be made of the rest first."""

import io
import tempfile
from functools import cache
from pathlib import Path

from registry_proxy.lazy.convert.layer import convert_layer
from registry_proxy.lazy.convert.values import Options
from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.layers import own_index
from registry_proxy.lazy.ztoc.bounds import Bounds
from registry_proxy.oci.content import OCI_MANIFEST
from registry_proxy.oci.digest import Digest
from tests.fuzz.targets.layers import read
from tests.fuzz.targets.tars import summed

TAR = OCI_MANIFEST.replace("manifest.v1+json", "layer.v1.tar")
OPTIONS = Options(chunk_size=700, threads=1, bounds=Bounds(layer=1 << 22, free=1 << 20, index=1 << 22))


def run(data: bytes) -> None:
    """A copy is made or refused; one that is made is what was said of it, and its files can be read by its own index."""
    layer = summed(data[1:]) + bytes(1024) if data[:1] < b"\x80" else data[1:]
    out = Path(_holder().name) / "copy"
    try:
        made = convert_layer(io.BytesIO(layer), TAR, out, options=OPTIONS)
    except LayerRefused:
        return
    copy = out.read_bytes()
    assert made.size == len(copy)
    assert made.digest == Digest.of(copy)
    index = own_index(len(copy), {}, lambda span: copy[span.start : span.stop])
    assert index is not None
    read(index, copy)


@cache
def _holder() -> tempfile.TemporaryDirectory[str]:
    shared = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix="fuzz-", dir=shared if shared.is_dir() else None)
