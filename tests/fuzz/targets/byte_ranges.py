"""`Range` with `If-Range` and `If-None-Match`. Four lines: the size of the content, Range, If-Range, If-None-Match."""

from registry_proxy.errors import RangeTooLarge
from registry_proxy.plan.ranges import Part, Parts, decide, not_modified
from tests.fuzz.text import fields, number

ETAG = '"sha256:abc"'
MOST = 64


def run(data: bytes) -> None:
    """Every part lies within the content, and all together are no more than it."""
    size, header, if_range, if_none_match = fields(data, 4)
    content = number(size, 1000)
    not_modified(if_none_match, ETAG)
    try:
        verdict = decide("GET", header, if_range or None, ETAG, content, MOST)
    except RangeTooLarge:
        return
    parts = verdict.parts if isinstance(verdict, Parts) else (verdict,) if isinstance(verdict, Part) else ()
    assert all(0 <= part.span.start < part.span.stop <= content for part in parts)
    assert sum(len(part.span) for part in parts) <= content
    assert len(parts) <= MOST
