"""Which format a layer is of, and its index if it carries one."""

from collections.abc import Mapping
from typing import Final

from registry_proxy.errors import DigestInvalid
from registry_proxy.lazy.estargz import footer as estargz_footer
from registry_proxy.lazy.estargz import index as estargz_index
from registry_proxy.lazy.failures import IndexInvalid
from registry_proxy.lazy.files import LayerIndex, Read, read_exactly
from registry_proxy.lazy.zstd_chunked import footer as zstd_footer
from registry_proxy.lazy.zstd_chunked import index as zstd_index
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span

_TAIL: Final = max(estargz_footer.LONGEST, zstd_footer.LONGEST)


def own_index(size: int, annotations: Mapping[str, str], read: Read) -> LayerIndex | None:
    """The index that a layer of ``size`` bytes carries; None if it carries none that is within the layer.

    Reads the layer's last bytes and its TOC. ``annotations``: of the layer's descriptor. Raises IndexInvalid.
    """
    if position := zstd_footer.of_annotations(annotations):
        return zstd_index.open_index(position, size, read)
    tail = read_exactly(read, Span(max(size - _TAIL, 0), size))
    if position := zstd_footer.of_footer(tail):
        return zstd_index.open_index(position, size, read)
    if (footer := estargz_footer.parse(tail)) and footer.toc is not None:
        return estargz_index.open_index(footer, size, read, _toc_digest(annotations))
    return None


def _toc_digest(annotations: Mapping[str, str]) -> Digest | None:
    text = annotations.get(estargz_footer.TOC_DIGEST)
    try:
        return Digest.parse(text) if text is not None else None
    except DigestInvalid as error:
        raise IndexInvalid(f"the annotation {estargz_footer.TOC_DIGEST} is malformed: {error}") from error
