"""How much one request to a source asks for, and how far ahead of a reader to fetch."""

from collections import OrderedDict, deque

from registry_proxy.plan.chunks import Span

RUN_SECONDS = 2.0
"""A run should take about this long, so that a reader who jumps into it never waits much longer."""

FIRST_RUN = 8 << 20
"""Bytes of a run while the speed of the source is unknown."""

LONGEST_RUN = 64 << 20
"""Bytes: longer runs save no round trips that count, and would hold a connection slot for long."""


def run_chunks(bytes_per_second: float | None, chunk: int) -> int:
    """Chunks in one run at this speed (None: not known yet); at least two, so that a request always overlaps the next."""
    wanted = FIRST_RUN if bytes_per_second is None else int(bytes_per_second * RUN_SECONDS)
    return max(2, min(wanted, LONGEST_RUN) // chunk)


LONG_WAIT = 0.04
"""Seconds to the headers of an answer from which on the way to a source counts as long."""

ABREAST = 3
"""Runs at a time for one sequential reader over a long way, where a connection carries no more than its window per round trip."""


class Waits:
    """The last waits for a source's headers; the shortest is about a round trip, whatever the load."""

    def __init__(self, remembered: int = 32) -> None:
        self._last: deque[float] = deque(maxlen=remembered)

    def note(self, seconds: float) -> None:
        """Another wait."""
        self._last.append(seconds)

    def abreast(self) -> int:
        """How many runs to fetch at a time for one reader who reads on and on."""
        return ABREAST if self._last and min(self._last) > LONG_WAIT else 1


LONG_LINE = 8 << 20
"""Bytes read in one line that tell a sequential reader from one that reads a large file."""


class Trail:
    """Where recent reads of one blob ended, to tell sequential readers from others.

    A read that starts where an earlier one stopped continues it; the trail remembers how many bytes were read in one line.
    """

    def __init__(self, remembered: int = 32) -> None:
        self._ends: OrderedDict[int, int] = OrderedDict()
        self._remembered = remembered

    def follow(self, span: Span) -> int:
        """Note a read; the bytes read in one line so far, this read included, or 0 if it continues none."""
        before = self._ends.pop(span.start, 0)
        self._ends[span.stop] = before + len(span)
        while len(self._ends) > self._remembered:
            self._ends.popitem(last=False)
        return before and before + len(span)


def ahead(line: int, chunk: int, bound: int) -> int:
    """Chunks to fetch beyond a read that has gone on for ``line`` bytes in one line.

    Nothing at first: jobs read files of some mebibytes from end to end, and what lies behind them is bought in vain. Then half
    as much again as was read, up to ``bound`` bytes.
    """
    return min(line // 2, bound) // chunk if line >= LONG_LINE else 0
