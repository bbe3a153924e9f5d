"""Status, headers and spans of an answer with content, whatever the content is: blobs and manifests alike."""

import secrets
from functools import lru_cache
from typing import Final

import msgspec

from registry_proxy.errors import RangeUnsatisfiable
from registry_proxy.oci.digest import Digest
from registry_proxy.plan import ranges
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.ranges import Part, Parts, Unsatisfiable, Whole
from registry_proxy.web.answer import Lines, lines
from registry_proxy.web.exchange import Exchange
from registry_proxy.web.multipart import Frames, content_range, frames

FOREVER = ("Cache-Control", "max-age=31536000, immutable")
"""For what is named by its digest. Not "public": what was given to a client with credentials is not for others."""

_RANGES: Final = lines(("Accept-Ranges", "bytes"))
_KEPT: Final = 1024
"""Digests whose headers are at hand."""


class Content(msgspec.Struct, frozen=True, gc=False):
    """What could be sent. ``size``: bytes; ``immutable``: it was asked for by its digest."""

    digest: Digest
    size: int
    media_type: str
    immutable: bool


class Outline(msgspec.Struct, frozen=True, gc=False):
    """The answer before its body. ``parts``: what to send, in order (none for 304 and HEAD); ``length``: of the body, in bytes, None
    for 304."""

    status: int
    headers: Lines
    parts: tuple[Part, ...]
    length: int | None
    frames: Frames | None = None


def outline(exchange: Exchange, content: Content, max_ranges: int) -> Outline:
    """How to answer this request for content; raises RangeUnsatisfiable and RangeTooLarge."""
    common, typed, etag = _known(content.digest, content.media_type, content.immutable)
    if ranges.not_modified(exchange.header("If-None-Match"), etag):
        return Outline(304, common, (), None)
    asked = exchange.header("Range")
    size = content.size
    if_range = exchange.header("If-Range") if asked is not None else None
    match ranges.decide(exchange.request.method, asked, if_range, etag, size, max_ranges):
        case Whole():
            return Outline(200, typed, () if exchange.head else (Part(Span(0, size)),), size)
        case Part(span) as part:
            return Outline(206, f"{typed}Content-Range: {content_range(span, size)}\r\n", (part,), len(span))
        case Parts(parts):
            framing = frames([part.span for part in parts], size, content.media_type, secrets.token_hex(16))
            headers = common + _RANGES + lines(("Content-Type", framing.content_type))
            return Outline(206, headers, parts, framing.length, framing)
        case Unsatisfiable():
            raise RangeUnsatisfiable(size)


@lru_cache(_KEPT)
def _known(digest: Digest, media_type: str, immutable: bool) -> tuple[Lines, Lines, str]:
    """The headers of a 304, those of an answer that has the media type, and the ETag."""
    etag = f'"{digest}"'
    forever = (FOREVER,) if immutable else ()
    common = lines(("Docker-Content-Digest", str(digest)), ("ETag", etag), *forever)
    return common, common + _RANGES + lines(("Content-Type", media_type)), etag
