"""Blobs: whole, in part, or in parts (distribution-spec, "Pulling blobs")."""

from collections.abc import Awaitable, Callable
from typing import Final

from registry_proxy.access.gate import Subject
from registry_proxy.errors import BlobUnknown
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.routing import Target
from registry_proxy.sources.base import BlobPlace
from registry_proxy.web import body
from registry_proxy.web.answer import Answer, Reply
from registry_proxy.web.exchange import Exchange
from registry_proxy.web.heart import Blobs, OpenBlob
from registry_proxy.web.outline import Content, outline

Admit = Callable[[SourceHost, Subject], Awaitable[None]]
"""Returns if the client may read this; raises LoginNeeded, Denied, BlobUnknown or Trouble."""

_MEDIA_TYPE: Final = "application/octet-stream"


async def answer(
    exchange: Exchange,
    blobs: Blobs,
    target: Target | None,
    digest: Digest,
    *,
    admit: Admit,
    max_ranges: int,
    stall: float,
) -> Reply:
    """The answer to a blob request, its body already on its way unless it is small; raises what ``Blobs`` raises.

    ``target``: None where nothing names an upstream. ``admit``: the target's guard, asked before anything of the target. ``stall``: seconds after which a client that takes nothing is dropped.
    """
    blob = await _open(blobs, target, digest, admit, certain=exchange.head)
    plan = outline(exchange, Content(digest, blob.size, _MEDIA_TYPE, immutable=True), max_ranges)
    if not plan.length or not plan.parts:
        return exchange.outlined(plan.status, plan.headers, plan.length)
    if len(plan.parts) == 1:
        data = _small(exchange, blob, plan.parts[0].span)
        if data is not None:
            return exchange.outlined(plan.status, plan.headers, plan.length, data)
    async with blob.read(plan.parts) as reader:
        return await body.send(exchange, plan, reader, stall)


def hit(exchange: Exchange, blob: OpenBlob, max_ranges: int) -> Answer | None:
    """The answer to a GET of a small part, if it is at hand. Raises RangeUnsatisfiable and RangeTooLarge."""
    plan = outline(exchange, Content(blob.digest, blob.size, _MEDIA_TYPE, immutable=True), max_ranges)
    if len(plan.parts) != 1:
        return None
    data = _small(exchange, blob, plan.parts[0].span)
    return None if data is None else exchange.outlined(plan.status, plan.headers, plan.length, data)


async def _open(blobs: Blobs, target: Target | None, digest: Digest, admit: Admit, *, certain: bool) -> OpenBlob:
    """The blob; a request that names no upstream gets it from wherever the digest is a fact before Docker Hub is asked."""
    if target is None or target.guessed:
        try:
            return await blobs.open_anywhere(digest, certain=certain)
        except BlobUnknown:
            if target is None:
                raise
    await admit(target.upstream, Subject(target.repository, blob=digest))
    return await blobs.open(BlobPlace(target.upstream, target.repository, digest), certain=certain)


def _small(exchange: Exchange, blob: OpenBlob, span: Span) -> bytes | None:
    """The span, if it is at hand and sooner read than sent by sendfile: headers and bytes then go by one write."""
    piece = blob.hit(span)
    if piece is None:
        return None
    try:
        if len(piece) >= body.SENDFILE_FROM and piece.chunk.file is not None:
            return None
        data = piece.read()
    except OSError:
        return None  # a tier that fails is a miss, and the reader knows where to go next
    finally:
        piece.chunk.close()
    exchange.count(piece.tier, len(data))
    return data
