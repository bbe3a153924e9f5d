"""Which spans can be compared once a chunk is there."""

from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.plan.chunks import Grid, Span
from registry_proxy.plan.coverage import Spans, covered

SIZE = 100


@st.composite
def some_spans(draw: st.DrawFn) -> list[Span]:
    """Spans within the blob, also empty, nested and equal ones."""
    edges = draw(st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)), max_size=12))
    return [Span(min(pair), max(pair)) for pair in edges]


def bytes_of(span: Span) -> set[int]:
    return set(range(span.start, span.stop))


@given(some_spans(), some_spans())
def test_touching_spans_are_those_with_a_byte_in_common(spans: list[Span], asked: list[Span]) -> None:
    """As sets of bytes say."""
    kept = Spans(spans)
    for one in asked:
        expected = [number for number, span in enumerate(sorted(spans)) if bytes_of(span) & bytes_of(one)]
        assert list(kept.touching(one)) == expected
        near = kept.near(one)
        assert set(expected) <= set(near)
        if near:
            hull = kept.hull(near)
            assert all(hull.start <= kept[number].start <= kept[number].stop <= hull.stop for number in near)


@given(some_spans(), st.integers(1, 40), st.permutations(range(SIZE)))
def test_each_span_is_covered_when_its_last_chunk_comes(spans: list[Span], chunk: int, order: list[int]) -> None:
    """In whatever order the chunks land, each span is named with the last of its chunks, and never before all are there."""
    grid, kept = Grid(SIZE, chunk), Spans(spans)
    here: set[int] = set()
    named: dict[int, int] = {}
    for index in (index for index in order if index < grid.count):
        here.add(index)
        for number in covered(kept, grid, index, here.__contains__):
            assert set(grid.touched(kept[number])) <= here
            named.setdefault(number, index)
    position = {index: at for at, index in enumerate(order)}
    assert named == {
        number: max(grid.touched(span), key=position.__getitem__)
        for number, span in enumerate(sorted(spans))
        if len(span)
    }


def test_nothing_is_covered_by_one_chunk_of_two() -> None:
    """A span over a chunk that is missing waits for it."""
    grid, kept = Grid(SIZE, 10), Spans([Span(5, 15), Span(11, 12)])
    assert covered(kept, grid, 1, {1}.__contains__) == [1]
    assert covered(kept, grid, 0, {0, 1}.__contains__) == [0]
