"""Which groups go."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.plan.eviction import choose, without


@dataclass(frozen=True)
class Held:
    """A group as the choice sees it."""

    bytes: int
    pinned: bool = False


groups = st.lists(st.builds(Held, st.integers(0, 100), st.booleans()), max_size=20)


def test_what_was_used_longest_ago_goes_first() -> None:
    """Groups go in the order given until the need is met."""
    oldest, middle, newest = Held(10), Held(20), Held(30)
    assert choose([oldest, middle, newest], 11) == [oldest, middle]


def test_what_is_being_read_stays() -> None:
    """A pinned group is passed over."""
    read, idle = Held(10, pinned=True), Held(20)
    assert choose([read, idle], 5) == [idle]


def test_nothing_goes_for_what_will_not_fit_anyway() -> None:
    """A blob larger than the store does not empty it."""
    assert choose([Held(10), Held(20, pinned=True)], 11) is None


@given(groups, st.integers(-10, 2000))
def test_a_choice_frees_enough_and_no_group_too_many(held: list[Held], need: int) -> None:
    """The chosen are unpinned, suffice, and would not suffice without the last; there is a choice whenever one is possible."""
    chosen = choose(held, need)
    free = sum(group.bytes for group in held if not group.pinned)
    if chosen is None:
        assert free < need
        return
    assert not any(group.pinned for group in chosen)
    assert sum(group.bytes for group in chosen) >= need
    assert not chosen or sum(group.bytes for group in chosen[:-1]) < need


@given(groups, st.integers(0, 500), st.integers(0, 100))
def test_what_is_spared_has_a_bounded_share(held: list[Held], share: int, small: int) -> None:
    """No more than the share is left out, nothing that is not spared, and the order stays; without a share nothing is."""

    def spared(group: Held) -> bool:
        return group.bytes <= small

    left = list(without(held, spared, share))
    out = list(held)
    for group in left:
        out.remove(group)
    assert all(spared(group) for group in out)
    assert sum(group.bytes for group in out) <= share
    assert [group for group in held if not spared(group)] == [group for group in left if not spared(group)]
    assert sum(group.bytes for group in without(held, spared, 0)) == sum(group.bytes for group in held)
