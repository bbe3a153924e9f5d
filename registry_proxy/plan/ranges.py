"""What a ``Range`` header asks for, once the size of the content is known (RFC 9110 §14).

A header is either understood as a whole or ignored as a whole. What is asked for is kept as asked: one part per satisfiable
range, in the order of the header, never merged and never sorted, since containers/storage reads parts by position (2026-06).
"""

from dataclasses import dataclass

import msgspec

from registry_proxy.errors import RangeTooLarge
from registry_proxy.plan.chunks import Span

_LONGEST_NUMBER = 18
"""Digits; more of them (2^63 has 19) can only mean "beyond any content"."""

_BEYOND = 10**_LONGEST_NUMBER

_MOST_TOGETHER = 1 << 37
"""Bytes that several ranges of one request may sum to: what they touch is planned chunk by chunk, however large a blob is said to be."""


@dataclass(frozen=True, slots=True)
class Whole:
    """Everything, with 200: no range was asked for, or the header is to be ignored."""


class Part(msgspec.Struct, frozen=True, gc=False):
    """One span, with 206. ``open_ended``: it was asked as ``N-``, so the client may leave long before its end."""

    span: Span
    open_ended: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """Several spans, with 206 and multipart/byteranges, in the order asked."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """416: nothing that was asked for lies within the content."""


Verdict = Whole | Part | Parts | Unsatisfiable

_WHOLE = Whole()
_UNSATISFIABLE = Unsatisfiable()


class _Malformed(Exception):
    """The header cannot be understood."""


class _Reversed(Exception):
    """A range ends before it starts."""


def decide(method: str, header: str | None, if_range: str | None, etag: str, size: int, max_ranges: int) -> Verdict:
    """What to send of ``size`` bytes. ``etag``: the strong validator as sent, with its quotes.

    ``Whole`` for HEAD (§14.2), for a foreign unit or a malformed header (ignored, §14.2), and where If-Range is anything but
    that very validator: a date or a weak one can vouch for nothing here (§13.1.5). A range that ends before it starts is
    refused (§14.2 allows it, the OCI conformance suite wants it).
    Raises RangeTooLarge for more than ``max_ranges`` ranges, or if the spans sum to more than the content or 128 GiB: clients answer a 400
    by asking for less (containers/storage halves its list, stargz asks for single ranges).
    """
    if header is None or method == "HEAD" or (if_range is not None and if_range.strip() != etag):
        return _WHOLE
    unit, _, ranges = header.partition("=")
    if unit != "bytes" and unit.lower() != "bytes":
        return _WHOLE
    try:
        if "," not in ranges:  # nearly all, and a few µs cheaper
            text = ranges.strip(" \t")
            return (_part(text, size) or _UNSATISFIABLE) if text else _WHOLE
        return _several([text for each in ranges.split(",") if (text := each.strip(" \t"))], size, max_ranges)
    except _Malformed:
        return _WHOLE
    except _Reversed:
        return _UNSATISFIABLE


def _several(asked: list[str], size: int, max_ranges: int) -> Verdict:
    if len(asked) > max_ranges:
        raise RangeTooLarge(f"{len(asked)} ranges asked for, at most {max_ranges} are answered at once")
    parts = tuple(part for text in asked if (part := _part(text, size)))
    return _verdict(parts, size) if asked else _WHOLE


def _verdict(parts: tuple[Part, ...], size: int) -> Verdict:
    if not parts:
        return _UNSATISFIABLE
    if len(parts) == 1:
        return parts[0]
    total = sum(len(part.span) for part in parts)
    if total > size:
        raise RangeTooLarge(f"the ranges asked for sum to {total} bytes, the content has {size}")
    if total > _MOST_TOGETHER:
        raise RangeTooLarge(f"the ranges asked for sum to {total} bytes, at most {_MOST_TOGETHER} are answered at once")
    return Parts(parts)


def _part(text: str, size: int) -> Part | None:
    """One range-spec against content of ``size`` bytes; None where it touches nothing of it (§14.1.2)."""
    first, dash, last = text.partition("-")
    if not dash or not (first or last):
        raise _Malformed
    if not first:
        length = _number(last)
        return Part(Span(max(size - length, 0), size)) if length and size else None
    start = _number(first)
    stop = _number(last) + 1 if last else size
    if last and stop <= start:
        raise _Reversed
    return Part(Span(start, min(stop, size)), open_ended=not last) if start < size else None


def _number(digits: str) -> int:
    if not (digits.isdigit() and digits.isascii()):
        raise _Malformed
    if len(digits) > _LONGEST_NUMBER:
        digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= _LONGEST_NUMBER else _BEYOND


def not_modified(if_none_match: str | None, etag: str) -> bool:
    """True if the client says that it has this content already (RFC 9110 §13.1.2: weak comparison): answer 304."""
    if if_none_match is None:
        return False
    return any(
        tag == "*" or tag.removeprefix("W/") == etag for each in if_none_match.split(",") if (tag := each.strip(" \t"))
    )
