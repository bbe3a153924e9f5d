"""Wishes: what a reader still wants."""

from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.plan.chunks import Run
from registry_proxy.pull.wish import Wish


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.integers(1, 9))
def test_the_runs_of_a_wish_are_the_chunks_that_are_absent(wanted: set[int], present: set[int], longest: int) -> None:
    """Put together, the runs are exactly what is wanted and absent, in order, none longer than allowed."""
    wish = Wish(sorted(wanted))
    runs: list[Run] = []
    while (run := wish.next_run(lambda index: index not in present, longest)) is not None:
        runs.append(run)
    assert [index for run in runs for index in range(run.first, run.stop)] == sorted(wanted - present)
    assert all(len(run) <= longest for run in runs)


def test_adjacent_chunks_become_one_run() -> None:
    """One request is cheaper than two."""
    assert Wish(range(10)).next_run(lambda _: True, 100) == Run(0, 10)


def test_a_wish_is_touched_only_by_what_is_still_to_be_read() -> None:
    """A flight goes on for what its reader has not had yet."""
    wish = Wish([2, 3, 7])
    assert wish.touches(0, 3)
    assert not wish.touches(4, 7)
    wish.advance(4)
    assert not wish.touches(0, 4)
    assert wish.touches(7, 8)


def test_a_wish_that_is_rewound_plans_again() -> None:
    """A chunk that was present and is gone has to be fetched after all."""
    wish = Wish(range(4))
    assert wish.next_run(lambda _: False, 9) is None
    wish.rewind(2)
    assert wish.next_run(lambda _: True, 9) == Run(2, 4)


def test_a_contiguous_wish_can_be_extended() -> None:
    """Read-ahead is more of the same wish."""
    wish = Wish(range(3, 5))
    wish.extend(4)
    assert list(wish.chunks) == [3, 4]
    wish.extend(8)
    assert list(wish.chunks) == [3, 4, 5, 6, 7]


def test_what_the_reader_is_done_with_is_never_planned_for() -> None:
    """A reader that came late to a running stream has planned nothing itself; at the end of the stream it wants nothing back."""
    wish = Wish(range(6))
    wish.advance(3)
    wish.finish(4)
    assert wish.next_run(lambda index: index != 3, 9) == Run(5, 6)
