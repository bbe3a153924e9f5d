"""Who is one client, how many connections it may have, how fast it may ask."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.plan import limits
from registry_proxy.plan.limits import BURST, Crowd, Paces, TooFast, client_of


@pytest.mark.parametrize(
    ("remote", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", None),
        ("127.8.8.8", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("", None),
        (None, None),
        ("/run/client.sock", None),
    ],
)
def test_who_is_one_client(remote: str | None, client: str | None) -> None:
    """An IPv4 address, a /64 of IPv6, or this machine, however it is written."""
    assert client_of(remote) == client


class TestCrowd:
    def test_each_has_its_share(self) -> None:
        """A client with all its connections gets no more, others do; who leaves makes room."""
        crowd = Crowd(total=10, each=2)
        assert [crowd.enter("a") for _ in range(3)] == [True, True, False]
        assert crowd.enter("b")
        crowd.leave("a")
        assert crowd.enter("a")

    def test_this_machine_gets_through(self) -> None:
        """When everything is taken, this machine still has a few, and not without end."""
        crowd = Crowd(total=2, each=2)
        assert crowd.enter("a")
        assert crowd.enter("a")
        assert not crowd.enter("b")
        assert [crowd.enter(None) for _ in range(Crowd.RESERVE + 1)] == [True] * Crowd.RESERVE + [False]

    @given(st.lists(st.sampled_from(["a", "b", None]), max_size=60))
    def test_the_books_balance(self, clients: list[str | None]) -> None:
        """When all who entered have left, nobody is counted and nobody remembered."""
        crowd = Crowd(total=20, each=5)
        entered = [client for client in clients if crowd.enter(client)]
        assert crowd.open == len(entered)
        for client in entered:
            crowd.leave(client)
        assert crowd.open == 0
        assert not crowd._of


class TestPaces:
    def test_a_burst_then_the_rate(self) -> None:
        """A burst goes at once, later requests wait their turn, and beyond the queue they are sent away."""
        paces = Paces(rate=10, queue=3)
        burst = int(BURST * 10)
        assert [paces.ask("a", 100.0) for _ in range(burst + 1)] == [0.0] * (burst + 1)
        waits = [paces.ask("a", 100.0) for _ in range(3)]
        assert waits == pytest.approx([0.1, 0.2, 0.3])
        refused = paces.ask("a", 100.0)
        assert isinstance(refused, TooFast)
        assert refused.retry_after == pytest.approx(0.1)
        assert isinstance(paces.ask("a", 100.0 + refused.retry_after + 0.001), float)

    def test_clients_do_not_share(self) -> None:
        """One client's haste is not another's."""
        paces = Paces(rate=1, queue=0)
        while not isinstance(paces.ask("a", 0.0), TooFast):
            pass
        assert paces.ask("b", 0.0) == 0.0

    def test_a_pause_restores_the_burst(self) -> None:
        """After a pause, a client is as good as new."""
        paces = Paces(rate=10, queue=5)
        for _ in range(40):
            paces.ask("a", 0.0)
        assert [paces.ask("a", 60.0) for _ in range(20)] == [0.0] * 20

    @given(st.lists(st.floats(0, 0.2), max_size=200), st.integers(1, 50), st.integers(0, 20))
    def test_the_rate_holds(self, pauses: list[float], rate: int, queue: int) -> None:
        """In no time do more requests have their turn than the burst and the rate allow, and nobody waits longer than the queue."""
        paces, now, turns = Paces(rate, queue), 0.0, []
        for pause in pauses:
            now += pause
            wait = paces.ask("a", now)
            if not isinstance(wait, TooFast):
                assert wait <= queue / rate + 1e-6
                turns.append(now + wait)
        assert turns == sorted(turns)
        for first, start in enumerate(turns):
            for last in range(first, len(turns)):
                assert last - first <= (turns[last] - start + BURST) * rate + 1e-6

    def test_memory_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many clients there are, so many are remembered, and those that are too fast longest."""
        monkeypatch.setattr(limits, "_REMEMBERED", 64)
        paces = Paces(rate=1, queue=0)
        for number in range(10_000):
            paces.ask(f"client {number}", number / 1000)
            assert len(paces._done_at) <= 64
