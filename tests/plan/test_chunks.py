"""The chunk grid: slices rejoin to their span, runs cover what is missing and nothing else."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.plan.chunks import Grid, Run, Span

GRIDS = st.builds(Grid, st.integers(0, 200), st.integers(1, 30))
GRIDS_AND_SPANS = GRIDS.flatmap(
    lambda grid: st.tuples(
        st.just(grid),
        st.tuples(st.integers(0, grid.size), st.integers(0, grid.size)).map(sorted).map(lambda pair: Span(*pair)),
    )
)


@given(GRIDS_AND_SPANS)
def test_slices_rejoin_to_the_span(case: tuple[Grid, Span]) -> None:
    """Put together in order, the slices of the chunks are the bytes of the span; none is empty or crosses its chunk."""
    grid, span = case
    content = bytes(index % 251 for index in range(grid.size))
    chunks = [content[each.start : each.stop] for each in map(grid.span_of, range(grid.count))]
    slices = list(grid.slices(span))
    assert b"".join(chunks[each.index][each.start : each.stop] for each in slices) == content[span.start : span.stop]
    assert all(0 <= each.start < each.stop <= grid.length_of(each.index) for each in slices)
    assert [each.index for each in slices] == list(grid.touched(span))
    assert sum(map(len, slices)) == len(span)


@given(GRIDS)
def test_chunks_tile_the_blob(grid: Grid) -> None:
    """The chunks lie side by side from the first byte to the last; only the last may be short, none is empty."""
    spans = [grid.span_of(index) for index in range(grid.count)]
    assert sum(map(len, spans)) == grid.size
    assert all(left.stop == right.start for left, right in pairwise(spans))
    assert all(len(span) == grid.length_of(index) > 0 for index, span in enumerate(spans))
    assert all(len(span) == grid.chunk for span in spans[:-1])
    assert grid.span_of_run(Run(0, grid.count)) == Span(0, grid.size)


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1)])
def test_what_is_no_span(start: int, stop: int) -> None:
    """A span is never negative and never reversed."""
    with pytest.raises(ValueError, match="not a span"):
        Span(start, stop)
