"""Reading an eStargz layer: its TOC first, then files by their members."""

import io
import tarfile
import zlib
from collections.abc import Iterator
from typing import Final

from registry_proxy.lazy.convert import codec
from registry_proxy.lazy.estargz.footer import Footer
from registry_proxy.lazy.failures import IndexInvalid, TocTooLarge
from registry_proxy.lazy.files import Read, read_exactly
from registry_proxy.lazy.frames import Frames
from registry_proxy.lazy.toc import MAX_TOC, TocIndex
from registry_proxy.lazy.toc import frames as frames_of_toc
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span

_GZIP: Final = 31
_PIECE: Final = 1 << 20
_TOC_NAME: Final = "stargz.index.json"


def toc_span(footer: Footer, size: int, most: int = MAX_TOC) -> Span:
    """Where a layer of ``size`` bytes keeps its TOC; raises IndexInvalid if it is not there, or has more than ``most`` bytes."""
    if footer.toc is None:
        raise IndexInvalid("an eStargz layer whose TOC is kept in an image of its own")
    if not 0 <= footer.toc <= size - footer.length:
        raise IndexInvalid("an eStargz footer that points outside the layer")
    if size - footer.toc > most:
        raise TocTooLarge(f"an eStargz TOC of {size - footer.toc} bytes")
    return Span(footer.toc, size - footer.length)


def open_index(footer: Footer, size: int, read: Read, digest: Digest | None = None) -> TocIndex:
    """The index of an eStargz layer; ``digest``: what the TOC must hash to, if that is known. Raises IndexInvalid."""
    span = toc_span(footer, size)
    toc = _toc(read_exactly(read, span))
    if digest is not None and not digest.matches(toc):
        raise IndexInvalid("the layer's TOC does not hash to what its manifest says")
    return TocIndex("estargz", toc, size, span.start, inflate)


def frames(start: int, digest: Digest, most: int, member: bytes) -> Frames:
    """What a TOC says about the frames before ``start``, its own first byte; ``digest``: what it must hash to; ``most``: bytes of it,
    uncompressed; ``member``: the gzip member that holds it. Raises IndexInvalid."""
    toc = _toc(member, most)
    if not digest.matches(toc):
        raise IndexInvalid("the layer's TOC does not hash to what its manifest says")
    return frames_of_toc(toc, start, inflate)


def inflate(member: bytes) -> Iterator[bytes]:
    """The bytes of gzip members; raises IndexInvalid."""
    while member:
        stream, data = codec.gunzipper(), member
        while not stream.eof:
            try:
                piece = stream.decompress(data, _PIECE)
            except codec.BROKEN as error:
                raise IndexInvalid(f"a damaged gzip member in the layer: {error}") from error
            if piece:
                yield piece
            data = stream.unconsumed_tail
            if not piece and not data and not stream.eof:
                raise IndexInvalid("a gzip member of the layer is cut short")
        member = stream.unused_data


def _toc(member: bytes, most: int = MAX_TOC) -> bytes:
    """The TOC's JSON: the one file of the small tar, at most ``most`` bytes long, that the member holds."""
    stream = zlib.decompressobj(_GZIP)
    try:
        data = stream.decompress(member, most)
        if not stream.eof and len(data) >= most:
            raise TocTooLarge(f"an eStargz TOC larger than {most} bytes")
        if not stream.eof:
            raise IndexInvalid("the layer's TOC is cut short")
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            file = archive.extractfile(_TOC_NAME)
            return file.read() if file else b""
    except (zlib.error, tarfile.TarError, KeyError, EOFError) as error:
        raise IndexInvalid(f"the layer's TOC cannot be read: {error}") from error
