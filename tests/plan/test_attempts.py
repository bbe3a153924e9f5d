"""How many wrong passwords a client may try."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.plan import attempts
from registry_proxy.plan.attempts import AT_ONCE, PAUSE, Attempts


def test_a_client_that_guesses() -> None:
    """So many at once, then one for each pause; others do not notice."""
    tried = Attempts()
    for _ in range(AT_ONCE):
        assert tried.wait("a", 100) == 0
        tried.failed("a", 100)
    assert tried.wait("a", 100) == PAUSE
    assert tried.wait("b", 100) == 0
    assert tried.wait("a", 100 + PAUSE) == 0
    tried.failed("a", 100 + PAUSE)
    assert tried.wait("a", 100 + PAUSE) == PAUSE


def test_it_is_forgotten() -> None:
    """A client that has paused long enough has all its attempts again."""
    tried = Attempts()
    for _ in range(AT_ONCE):
        tried.failed("a", 0)
    for _ in range(AT_ONCE):
        assert tried.wait("a", AT_ONCE * PAUSE) == 0
        tried.failed("a", AT_ONCE * PAUSE)


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many clients there are, so many are remembered, the latest among them."""
    monkeypatch.setattr(attempts, "_REMEMBERED", 80)
    tried = Attempts()
    for number in range(1000):
        for _ in range(AT_ONCE):
            tried.failed(str(number), number / 1000)
        assert len(tried._until) <= 80
    assert tried.wait("999", 1) > 0


@given(st.lists(st.floats(0, 10), max_size=60))
def test_pace(pauses: list[float]) -> None:
    """Whatever its timing, a client gets the first ones and one per pause."""
    tried, now, count = Attempts(), 0.0, 0
    for pause in pauses:
        now += pause
        if not tried.wait("a", now):
            tried.failed("a", now)
            count += 1
    assert count <= AT_ONCE + now / PAUSE + 1e-6
