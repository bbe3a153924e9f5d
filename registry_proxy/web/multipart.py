"""The framing of multipart/byteranges, known to the byte before any content is there (RFC 9110 §14.6, RFC 2046 §5.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

from registry_proxy.plan.chunks import Span


@dataclass(frozen=True, slots=True)
class Frames:
    """What stands between the parts. ``heads``: before each part; ``tail``: after the last; ``length``: everything, in bytes."""

    content_type: str
    heads: tuple[bytes, ...]
    tail: bytes
    length: int


def frames(spans: Sequence[Span], size: int, media_type: str, boundary: str) -> Frames:
    """The framing of these spans of content of ``size`` bytes. ``boundary`` must not occur in it: take it at random."""
    heads = tuple(
        f"{'' if first else chr(13) + chr(10)}--{boundary}\r\nContent-Type: {media_type}\r\n"
        f"Content-Range: {content_range(span, size)}\r\n\r\n".encode()
        for first, span in zip((True, *(False,) * (len(spans) - 1)), spans, strict=True)
    )
    tail = f"\r\n--{boundary}--\r\n".encode()
    length = sum(map(len, heads)) + sum(map(len, spans)) + len(tail)
    return Frames(f"multipart/byteranges; boundary={boundary}", heads, tail, length)


def content_range(span: Span, size: int) -> str:
    """The value of Content-Range for a span that is not empty."""
    return f"bytes {span.start}-{span.stop - 1}/{size}"
