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
from registry_proxy.web.exchange import Exchange
from registry_proxy.web.multipart import Frames, content_range, frames

FOREVER = ("Cache-Control", "max-age=31536000, immutable")
"""For what is named by its digest. Not "public": what was given to a client with credentials is not for others."""

_KEPT: Final = 1024
"""Digests whose headers are at hand."""


class Content(msgspec.Struct, frozen=True, gc=False):
    """What could be sent. ``size``: bytes; ``immutable``: it was asked for by its digest."""

    digest: Digest
    size: int
    media_type: str
    immutable: bool


class Outline(msgspec.Struct, frozen=True, gc=False):
    """The answer before its body. ``parts``: what to send, in order (none for 304 and HEAD); ``length``: of the body, in bytes."""

    status: int
    headers: tuple[tuple[str, str], ...]
    parts: tuple[Part, ...]
    length: int
    frames: Frames | None = None


def outline(exchange: Exchange, content: Content, max_ranges: int) -> Outline:
    """How to answer this request for content; raises RangeUnsatisfiable and RangeTooLarge."""
    common, etag = _common(content.digest, content.immutable)
    if ranges.not_modified(exchange.header("If-None-Match"), etag):
        return Outline(304, common[:-1], (), 0)
    asked = exchange.header("Range")
    size = content.size
    if_range = exchange.header("If-Range") if asked is not None else None
    media_type = ("Content-Type", content.media_type)
    match ranges.decide(exchange.request.method, asked, if_range, etag, size, max_ranges):
        case Whole():
            headers = (*common, media_type, ("Content-Length", str(size)))
            return Outline(200, headers, () if exchange.head else (Part(Span(0, size)),), size)
        case Part(span) as part:
            length = ("Content-Length", str(len(span)))
            headers = (*common, media_type, length, ("Content-Range", content_range(span, size)))
            return Outline(206, headers, (part,), len(span))
        case Parts(parts):
            framing = frames([part.span for part in parts], size, content.media_type, secrets.token_hex(16))
            length = ("Content-Length", str(framing.length))
            return Outline(
                206, (*common, ("Content-Type", framing.content_type), length), parts, framing.length, framing
            )
        case Unsatisfiable():
            raise RangeUnsatisfiable(size)


@lru_cache(_KEPT)
def _common(digest: Digest, immutable: bool) -> tuple[tuple[tuple[str, str], ...], str]:
    """The headers that every answer with this content has (304 all but the last), and the ETag."""
    etag = f'"{digest}"'
    forever = (FOREVER,) if immutable else ()
    return (("Docker-Content-Digest", str(digest)), ("ETag", etag), *forever, ("Accept-Ranges", "bytes")), etag
