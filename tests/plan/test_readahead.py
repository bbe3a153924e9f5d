"""How much one request asks for, and how far ahead of a reader."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.plan.chunks import MIB, Span
from registry_proxy.plan.readahead import (
    ABREAST,
    FIRST_RUN,
    LONG_LINE,
    LONGEST_RUN,
    RUN_SECONDS,
    Trail,
    Waits,
    ahead,
    run_chunks,
)


def test_a_run_is_eight_mebibytes_until_the_speed_is_known() -> None:
    """Nothing is known about a source before its first answer."""
    assert run_chunks(None, MIB) * MIB == FIRST_RUN


@given(st.floats(0, 1e12), st.sampled_from([64 << 10, MIB, 16 * MIB]))
def test_a_run_takes_about_its_time_within_bounds(rate: float, chunk: int) -> None:
    """A run is as long as the source sends in RUN_SECONDS, never more than the bound, never less than two chunks."""
    chunks = run_chunks(rate, chunk)
    assert 2 <= chunks <= max(2, LONGEST_RUN // chunk)
    assert chunks * chunk <= max(rate * RUN_SECONDS, 2 * chunk)


def test_a_trail_adds_up_reads_that_continue_each_other() -> None:
    """A read that starts where another one ended continues its line; any other starts a new one."""
    trail = Trail()
    assert trail.follow(Span(0, 100)) == 0
    assert trail.follow(Span(100, 150)) == 150
    assert trail.follow(Span(100, 150)) == 0
    assert trail.follow(Span(500, 600)) == 0


def test_a_trail_remembers_a_bounded_number_of_readers() -> None:
    """The oldest line is forgotten first."""
    trail = Trail(remembered=2)
    for start in (0, 1000, 2000):
        trail.follow(Span(start, start + 10))
    assert trail.follow(Span(10, 20)) == 0
    assert trail.follow(Span(2010, 2020)) == 20


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 30))
def test_read_ahead_buys_nothing_for_a_short_line_and_never_more_than_was_read(line: int, bound: int) -> None:
    """The window is half of what was read in one line, up to the bound, in whole chunks."""
    chunks = ahead(line, MIB, bound)
    assert chunks * MIB <= min(line, bound)
    assert chunks == 0 or line >= LONG_LINE


@pytest.mark.parametrize(
    ("waits", "runs"), [([], 1), ([0.1, 0.2], ABREAST), ([0.1, 0.002, 0.1], 1), ([0.001, *[0.1] * 32], ABREAST)]
)
def test_a_long_way_is_told_by_the_shortest_of_the_last_waits(waits: list[float], runs: int) -> None:
    """Load makes some waits long, only distance makes all of them so."""
    found = Waits(remembered=32)
    for seconds in waits:
        found.note(seconds)
    assert found.abreast() == runs
