"""Which spans of a blob lie wholly in chunks that are present: what can be compared with a digest of its own, and when."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator

from registry_proxy.plan.chunks import Grid, Span


class Spans:
    """Spans of one blob, in order of their starts; they may overlap. Kept compactly: a layer may have a million."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._starts = array("Q")
        self._stops = array("Q")
        self._reach = array("Q")  # how far the spans up to this one reach
        for span in sorted(spans):
            self._starts.append(span.start)
            self._stops.append(span.stop)
            self._reach.append(max(span.stop, self._reach[-1] if self._reach else 0))

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> Span:
        return Span(self._starts[number], self._stops[number])

    def near(self, span: Span) -> range:
        """The numbers of all spans that share a byte with this one, and perhaps of some between them that do not."""
        return range(bisect_right(self._reach, span.start), bisect_left(self._starts, span.stop))

    def hull(self, numbers: range) -> Span:
        """What these spans, one or more, reach over together with those before them."""
        return Span(self._starts[numbers.start], self._reach[numbers.stop - 1])

    def touching(self, span: Span) -> Iterator[int]:
        """The numbers of the spans that share a byte with this one, in order."""
        return (number for number in self.near(span) if _meet(self[number], span))


def _meet(one: Span, other: Span) -> bool:
    return max(one.start, other.start) < min(one.stop, other.stop)


def covered(spans: Spans, grid: Grid, index: int, present: Callable[[int], bool]) -> list[int]:
    """The numbers of the spans that lie partly in chunk ``index``, and wholly in chunks that are present."""
    here: dict[int, bool] = {}

    def is_here(chunk: int) -> bool:
        if chunk not in here:
            here[chunk] = present(chunk)
        return here[chunk]

    return [number for number in spans.touching(grid.span_of(index)) if all(map(is_here, grid.touched(spans[number])))]
