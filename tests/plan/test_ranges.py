"""The range decision against RFC 9110 §14, werkzeug, and a reading of the grammar in a few lines."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.http import parse_range_header

from registry_proxy.errors import RangeTooLarge
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.ranges import Part, Parts, Unsatisfiable, Verdict, Whole, decide, not_modified

ETAG = '"sha256:abc"'


def ask(header: str | None, size: int = 10_000, *, method: str = "GET", if_range: str | None = None) -> Verdict:
    return decide(method, header, if_range, ETAG, size, 1024)


@pytest.mark.parametrize(
    ("header", "size", "span", "open_ended"),
    [
        ("bytes=0-499", 10_000, Span(0, 500), False),  # RFC 9110 §14.1.2: the first 500 bytes
        ("bytes=500-999", 10_000, Span(500, 1000), False),
        ("bytes=-500", 10_000, Span(9500, 10_000), False),
        ("bytes=9500-", 10_000, Span(9500, 10_000), True),
        ("bytes=500-1499", 10_000, Span(500, 1500), False),
        ("bytes=2000-5000", 4000, Span(2000, 4000), False),
        ("bytes=-20000", 10_000, Span(0, 10_000), False),
        ("Bytes=0-0", 10_000, Span(0, 1), False),  # §14.1: unit names have no case
        ("bytes= 0-0 ", 10_000, Span(0, 1), False),
        ("bytes=,0-0,,", 10_000, Span(0, 1), False),  # §5.6.1.2: empty list elements
        ("bytes=0-99999999999999999999999999", 10_000, Span(0, 10_000), False),
        ("bytes=-" + 9999 * "9", 10_000, Span(0, 10_000), False),
        ("bytes=" + 5000 * "0" + "7-7", 10_000, Span(7, 8), False),
        ("bytes=20000-,5-6", 10_000, Span(5, 7), False),  # one satisfiable of two: §15.3.7.2 allows a single part
    ],
)
def test_one_part(header: str, size: int, span: Span, open_ended: bool) -> None:
    """A single, suffix, open-ended or clipped range is one part."""
    assert ask(header, size) == Part(span, open_ended)


def test_parts_stay_as_asked() -> None:
    """One part per satisfiable range, in the order asked, neither merged nor sorted; only the others are left out."""
    parts = Parts((Part(Span(5, 7)), Part(Span(7, 9)), Part(Span(0, 8)), Part(Span(9_990, 10_000), open_ended=True)))
    assert ask("bytes=5-6, 7-8, 99999-, 0-7, 9990-") == parts


@pytest.mark.parametrize(
    "header",
    [
        "items=0-1", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=a-b", "bytes=1", "bytes=1-2-3", "bytes=--1",
        "bytes =0-1", "bytes=0 - 1", "bytes=0x1-2", "bytes=+1-2", "bytes=\u0661-\u0662", "bytes=0-1;2-3", "bytes=0-1,x", "0-1", "",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_ignored(header: str) -> None:
    """A foreign unit or a malformed spec anywhere makes the whole header void (§14.2)."""
    assert ask(header) == Whole()


def test_head_and_no_header_ask_for_everything() -> None:
    """Range is defined for GET alone (§14.2)."""
    assert ask("bytes=0-1", method="HEAD") == Whole()
    assert ask(None) == Whole()


@pytest.mark.parametrize(
    ("if_range", "kept"),
    [(ETAG, True), (f" {ETAG} ", True), (f"W/{ETAG}", False), ('"other"', False), ("sha256:abc", False),
     ("Sat, 29 Oct 1994 19:43:31 GMT", False), ("", False)],
)  # fmt: skip
def test_if_range_needs_the_strong_validator(if_range: str, kept: bool) -> None:
    """Anything but the exact ETag means that the client's copy may be of something else (§13.1.5)."""
    assert (ask("bytes=0-1", if_range=if_range) == Part(Span(0, 2))) is kept
    assert kept or ask("bytes=0-1", if_range=if_range) == Whole()


@pytest.mark.parametrize(
    ("header", "size"),
    [("bytes=10000-", 10_000), ("bytes=500-0", 10_000), ("bytes=0-1,500-0", 10_000), ("bytes=-0", 10_000),
     ("bytes=0-", 0), ("bytes=-5", 0), ("bytes=0-0", 0), (f"bytes={'9' * 400}-", 10_000)],
)  # fmt: skip
def test_unsatisfiable(header: str, size: int) -> None:
    """Nothing to send, or a range that ends before it starts: 416."""
    assert ask(header, size) == Unsatisfiable()


@pytest.mark.parametrize("header", ["bytes=0-,0-0", "bytes=0-5000,5000-9999", "bytes=" + "0-9," * 1001])
def test_more_than_everything_is_too_large(header: str) -> None:
    """Spans that sum to more than the content are refused."""
    with pytest.raises(RangeTooLarge, match="sum to"):
        ask(header)


def test_no_blob_is_so_large_that_all_of_it_is_asked_for_in_ranges() -> None:
    """What several ranges sum to is bounded, however large the content is said to be; one range is not."""
    half = 1 << 61
    with pytest.raises(RangeTooLarge, match="sum to"):
        ask(f"bytes=0-{half - 1},{half}-", 2 * half)
    assert isinstance(ask("bytes=0-", 2 * half), Part)


def test_everything_once_is_not_too_large() -> None:
    """Ranges that sum to exactly the content are answered."""
    assert isinstance(ask("bytes=0-4999,5000-"), Parts)


def test_too_many_ranges() -> None:
    """One more than the limit is refused, whatever it says."""
    assert isinstance(decide("GET", "bytes=" + ",".join(["0-0"] * 8), None, ETAG, 100, 8), Parts)
    with pytest.raises(RangeTooLarge, match="9 ranges"):
        decide("GET", "bytes=" + ",".join(["0-0"] * 9), None, ETAG, 100, 8)


def _spec(size: int) -> st.SearchStrategy[str]:
    number = st.integers(0, size + size // 2 + 2)
    bounded = st.tuples(number, number).map(sorted).map(lambda pair: f"{pair[0]}-{pair[1]}")
    return bounded | number.map(lambda n: f"{n}-") | number.map(lambda n: f"-{n}")


SIZES = st.integers(0, 40)
HEADERS = SIZES.flatmap(
    lambda size: st.tuples(
        st.just(size), st.lists(_spec(size), min_size=1, max_size=6).map(lambda s: "bytes=" + ",".join(s))
    )
)


def _meant(spec: str, size: int) -> range:
    """The offsets that a well-formed spec means, read from the RFC's words."""
    first, _, last = spec.partition("-")
    everything = range(size)
    if not first:
        return everything[max(0, size - int(last)) :] if int(last) else range(0)
    return everything[int(first) : int(last) + 1 if last else size]


@given(HEADERS)
def test_every_satisfiable_range_is_answered_as_meant(sized: tuple[int, str]) -> None:
    """The parts are the non-empty meanings of the specs, in order; none: 416; more than everything: 400."""
    size, header = sized
    meant = [offsets for spec in header[6:].split(",") if (offsets := _meant(spec, size))]
    try:
        verdict = ask(header, size)
    except RangeTooLarge:
        assert sum(map(len, meant)) > size
        return
    parts = verdict.parts if isinstance(verdict, Parts) else (verdict,) if isinstance(verdict, Part) else ()
    assert [range(part.span.start, part.span.stop) for part in parts] == meant
    assert (verdict == Unsatisfiable()) == (not meant)


@given(HEADERS)
def test_werkzeug_agrees(sized: tuple[int, str]) -> None:
    """Where werkzeug takes a header (it refuses descending and overlapping ranges), both understand the same of a single one."""
    size, header = sized
    parsed = parse_range_header(header)
    if parsed is None or len(parsed.ranges) != 1 or size == 0:
        return
    start, stop = parsed.ranges[0]
    if start < 0:
        start, stop = max(0, size + start), size
    expected = range(start, size if stop is None else min(stop, size))
    verdict = ask(header, size)
    if not expected or header == "bytes=-0":
        assert verdict == Unsatisfiable()
    else:
        assert isinstance(verdict, Part)
        assert verdict.span == Span(expected.start, expected.stop)


@given(st.text(st.sampled_from('bytes=-,0123456789 \tBx;*"/')) | st.text(), st.integers(0, 100))
@example("bytes=" + "1" * 5000 + "-", 10)
def test_no_header_breaks_it(header: str, size: int) -> None:
    """Any text is a verdict within the content, or RangeTooLarge."""
    try:
        verdict = ask(header, size)
    except RangeTooLarge:
        return
    if isinstance(verdict, Part):
        assert 0 <= verdict.span.start < verdict.span.stop <= size


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        (ETAG, True),
        (f"W/{ETAG}", True),
        ("*", True),
        (f'"x" , {ETAG}', True),
        ('"x"', False),
        ("", False),
    ],
)
def test_not_modified(header: str | None, expected: bool) -> None:
    """If-None-Match compares weakly and takes a list or a star (§13.1.2)."""
    assert not_modified(header, ETAG) is expected
