"""What a 206 says it brings (RFC 9110 §14.4)."""

import re
from dataclasses import dataclass

from registry_proxy.plan.chunks import Span

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})\Z")


@dataclass(frozen=True, slots=True)
class ContentRange:
    """``span`` of a whole of ``total`` bytes."""

    span: Span
    total: int


def parse_content_range(header: str) -> ContentRange | None:
    """The span and total of a Content-Range; None if it is malformed, self-contradicting or does not tell the total."""
    match = _CONTENT_RANGE.match(header)
    if match is None:
        return None
    first, last, total = (int(group) for group in match.groups())
    return ContentRange(Span(first, last + 1), total) if first <= last < total else None
