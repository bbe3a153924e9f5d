"""How old a tag may be."""

import pytest

from registry_proxy.plan.freshness import Freshness, freshness


@pytest.mark.parametrize(
    ("now", "expected"),
    [(100.0, Freshness.FRESH), (159.9, Freshness.FRESH), (160.0, Freshness.STALE), (99.9, Freshness.STALE)],
)
def test_a_tag_is_fresh_for_its_time_and_not_if_it_was_checked_in_the_future(now: float, expected: Freshness) -> None:
    """A clock that was set back makes a tag stale, so that it is asked for instead of believed for days."""
    assert freshness(100.0, now, 60.0) is expected
