"""Which format a layer is of, and its index if it carries one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from registry_proxy.errors import DigestInvalid
from registry_proxy.lazy.estargz import footer as estargz_footer
from registry_proxy.lazy.estargz import index as estargz_index
from registry_proxy.lazy.failures import IndexInvalid
from registry_proxy.lazy.files import LayerIndex, Read, read_exactly
from registry_proxy.lazy.frames import Frames
from registry_proxy.lazy.zstd_chunked import footer as zstd_footer
from registry_proxy.lazy.zstd_chunked import index as zstd_index
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span

LARGEST_TOC: Final = 32 << 20
"""Bytes of a TOC that chunks are compared with: that of a layer of 100,000 files, at what decoding may cost a running instance."""

_TAIL: Final = max(estargz_footer.LONGEST, zstd_footer.LONGEST)


def own_index(size: int, annotations: Mapping[str, str], read: Read) -> LayerIndex | None:
    """The index that a layer of ``size`` bytes carries; None if it carries none that is within the layer.

    Reads the layer's last bytes and its TOC. ``annotations``: of the layer's descriptor. Raises IndexInvalid.
    """
    if position := zstd_footer.of_annotations(annotations):
        return zstd_index.open_index(position, size, read)
    last = read_exactly(read, Span(max(size - _TAIL, 0), size))
    if position := zstd_footer.of_footer(last):
        return zstd_index.open_index(position, size, read)
    if (footer := estargz_footer.parse(last)) and footer.toc is not None:
        return estargz_index.open_index(footer, size, read, _toc_digest(annotations))
    return None


def proving(annotations: Mapping[str, str]) -> dict[str, str]:
    """Those annotations of a layer's descriptor that name its TOC and what it must hash to; none if they do not do both."""
    position = zstd_footer.of_annotations(annotations)
    if position is not None:
        named = zstd_footer.ANNOTATIONS if position.checksum is not None else ()
    else:
        try:
            named = (estargz_footer.TOC_DIGEST,) if _toc_digest(annotations) else ()
        except IndexInvalid:
            named = ()
    return {name: annotations[name] for name in named if name in annotations}


@dataclass(frozen=True, slots=True)
class Toc:
    """Where a layer has its TOC, and what makes of its bytes what it says about the layer's frames (raises IndexInvalid)."""

    span: Span
    frames: Callable[[bytes], Frames]


def tail(size: int, annotations: Mapping[str, str]) -> Span | None:
    """The last bytes of a layer, if they must be had to know where its TOC is; ``annotations``: as ``proving`` gives them."""
    return None if zstd_footer.of_annotations(annotations) else Span(max(size - _TAIL, 0), size)


def toc(size: int, annotations: Mapping[str, str], last: bytes) -> Toc:
    """Where the TOC is, by the bytes of ``tail``; raises IndexInvalid, also if it is too large or kept elsewhere."""
    if position := zstd_footer.of_annotations(annotations):
        return Toc(zstd_index.toc_span(position, size, LARGEST_TOC), partial(zstd_index.frames, position))
    footer, digest = estargz_footer.parse(last), _toc_digest(annotations)
    if footer is None or digest is None:
        raise IndexInvalid("the layer has no footer where its manifest says that it has a TOC")
    span = estargz_index.toc_span(footer, size, LARGEST_TOC)
    return Toc(span, partial(estargz_index.frames, span.start, digest, LARGEST_TOC))


def _toc_digest(annotations: Mapping[str, str]) -> Digest | None:
    text = annotations.get(estargz_footer.TOC_DIGEST)
    try:
        return Digest.parse(text) if text is not None else None
    except DigestInvalid as error:
        raise IndexInvalid(f"the annotation {estargz_footer.TOC_DIGEST} is malformed: {error}") from error
