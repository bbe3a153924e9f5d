"""Manifests by tag or digest (distribution-spec, "Pulling manifests")."""

from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Reference
from registry_proxy.plan.routing import Target
from registry_proxy.web.answer import Answer, lines
from registry_proxy.web.exchange import Exchange
from registry_proxy.web.heart import Manifests, ServedManifest
from registry_proxy.web.outline import Content, Outline, outline

_LONGEST_WARNING = 1024
"""Characters; the spec allows 4,096 bytes of warnings in one answer."""


async def answer(
    exchange: Exchange, manifests: Manifests, target: Target, reference: Reference, *, max_ranges: int
) -> Answer:
    """The answer to a manifest request; ranges are honoured too (containerd 2.1 asks for ``bytes=0-``)."""
    served = await manifests.get(target.upstream, target.repository, reference, no_cache=_no_cache(exchange))
    return hit(exchange, served, reference, max_ranges)


def hit(exchange: Exchange, served: ServedManifest, reference: Reference, max_ranges: int) -> Answer:
    """The answer with a manifest that is here."""
    content = Content(served.digest, len(served.body), served.media_type, immutable=isinstance(reference, Digest))
    plan = outline(exchange, content, max_ranges)
    warning = lines(("Warning", _warning(served.stale))) if served.stale else ""
    body = _cut(served.body, plan)
    if body:
        exchange.count(served.tier, len(body))
    return exchange.outlined(plan.status, plan.headers + warning, plan.length, body)


def _cut(whole: bytes, plan: Outline) -> bytes | None:
    """The body that the outline promises; None where it has none."""
    parts = [whole[part.span.start : part.span.stop] for part in plan.parts]
    if plan.frames is None:
        return parts[0] if parts else None
    return b"".join(each for pair in zip(plan.frames.heads, parts, strict=True) for each in pair) + plan.frames.tail


def _no_cache(exchange: Exchange) -> bool:
    """True if the client insists on a fresh answer (RFC 9111 §5.2.1.4)."""
    return "no-cache" in (exchange.header("Cache-Control") or "").lower()


def _warning(text: str) -> str:
    """The value of a Warning header, in the form that the distribution spec wants ("Warnings"): ``299 - "text"``."""
    printable = "".join(each if " " <= each <= "~" else "?" for each in text[:_LONGEST_WARNING])
    quoted = printable.replace("\\", "\\\\").replace('"', '\\"')
    return f'299 - "{quoted}"'
