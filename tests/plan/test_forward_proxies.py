"""Forward-proxy groups as CVMFS has them: what a list means, who is chosen, who is burnt, who comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.plan.forward_proxies import DIRECT, Chain, LowSpeed, Rest, forward_error, parse

A, B, C = (f"http://{name}.example:3128" for name in "abc")
SEED = b"seed"

members = st.sampled_from([f"http://s{number}.example:3128" for number in range(8)] + [DIRECT])
group_lists = st.lists(st.lists(members, min_size=1, max_size=4, unique=True), min_size=1, max_size=4)
keys = st.binary(min_size=1, max_size=100)


def chain(text: str, seed: bytes = SEED) -> Chain:
    return Chain(parse(text), seed)


class TestParse:
    def test_groups_and_members(self) -> None:
        """Semicolons separate groups, bars their members; blanks and a last semicolon mean nothing."""
        assert parse(f" {A} | {B}; {C};DIRECT;") == ((A, B), (C,), (DIRECT,))

    def test_a_scheme_is_added(self) -> None:
        """A member without a scheme is an http URL; a slash at its end goes."""
        assert parse("a.example:3128|http://b.example:3128/") == ((A, B),)

    def test_fallback_groups_come_last_and_replace_direct(self) -> None:
        """With fallback groups DIRECT counts in neither list."""
        assert parse(f"{A};DIRECT", f"{B};DIRECT") == ((A,), (B,))
        assert parse("DIRECT", B) == ((B,),)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "names no forward proxy"),
            (";|;", "names no forward proxy"),
            ("auto;DIRECT", "auto"),
            ("http://a.example", "name the port"),
            ("ftp://a.example:3128", "not a URL"),
            ("http://me:secret@a.example:3128", "not a URL"),
            ("http://a.example:3128,http://b.example:3128", "not a URL"),
            ("http://a.example:3128/x", "name the port"),
        ],
    )
    def test_what_is_wrong_is_said(self, text: str, problem: str) -> None:
        """A malformed list is refused in words, without repeating a password."""
        with pytest.raises(ValueError, match=problem) as caught:
            parse(text)
        assert "secret" not in str(caught.value)

    @given(group_lists)
    def test_written_and_read(self, groups: list[list[str]]) -> None:
        """A list written from groups is read as those groups."""
        assert parse(";".join("|".join(group) for group in groups)) == tuple(map(tuple, groups))


class TestChoice:
    def test_the_choice_is_kept(self) -> None:
        """Requests without a key all go through the same member, which the seed draws."""
        one = chain(f"{A}|{B}|{C}")
        assert len({one.walk().next(0.0) for _ in range(20)}) == 1
        assert {chain(f"{A}|{B}|{C}", bytes([seed])).walk().next(0.0) for seed in range(64)} == {A, B, C}

    def test_a_key_is_shared_out(self) -> None:
        """With keys every member gets its share."""
        one = chain(f"{A}|{B}|{C}")
        got = [
            one.walk(b"a digest of 64 digits, and behind it the number of a chunk of it: %d" % key).next(0.0)
            for key in range(240)
        ]
        assert all(50 < got.count(way) < 110 for way in (A, B, C))

    @given(st.lists(keys, min_size=20, max_size=60, unique=True), st.integers(0, 4))
    def test_only_the_share_of_a_burnt_one_moves(self, asked: list[bytes], gone: int) -> None:
        """When a member is burnt, the keys of the others stay where they were."""
        ways = [f"http://s{number}.example:3128" for number in range(5)]
        one = chain("|".join(ways))
        before = {key: one.walk(key).next(0.0) for key in asked}
        one.burn(ways[gone], 0.0)
        after = {key: one.walk(key).next(1.0) for key in asked}
        assert all(after[key] == way for key, way in before.items() if way != ways[gone])
        assert ways[gone] not in after.values()

    @given(group_lists, st.sets(members), keys)
    def test_nobody_burnt_while_another_lives(self, groups: list[list[str]], burnt: set[str], key: bytes) -> None:
        """A walk visits every way once: the living ones first, in the order of their groups."""
        one = Chain(tuple(map(tuple, groups)), SEED)
        for way in burnt:
            one.burn(way, 0.0)
        walk = one.walk(key)
        while walk.next(1.0) is not None:
            pass
        everybody = {way for group in groups for way in group}
        assert len(walk.tried) == len(set(walk.tried))
        assert set(walk.tried) == everybody
        shunned = [way in burnt - {DIRECT} for way in walk.tried]
        assert shunned == sorted(shunned)
        first_group = next((group for group in groups if set(group) - (burnt - {DIRECT})), groups[0])
        assert walk.tried[0] in first_group


class TestBurning:
    def test_only_a_success_elsewhere_burns(self) -> None:
        """If every way fails it was the origin; if a later one works, those before it are burnt."""
        one = chain(f"{A};{B};DIRECT")
        walk = one.walk()
        while walk.next(0.0):
            pass
        assert one.burnt(0.0) == frozenset()
        walk = one.walk()
        assert [walk.next(0.0), walk.next(0.0)] == [A, B]
        walk.arrived(0.0)
        assert one.burnt(0.0) == {A}
        assert one.walk().next(1.0) == B

    def test_the_first_group_comes_back(self) -> None:
        """After the reset time requests go to the first group again, not a moment earlier."""
        one = chain(f"{A}|{B};{C}")
        one.burn(A, 100.0)
        one.burn(B, 100.0)
        assert one.walk().next(399.0) == C
        assert one.walk().next(400.0) in {A, B}

    def test_a_burnt_one_that_works_is_alive(self) -> None:
        """Where all are burnt they are tried all the same, and one that works stays in use."""
        one = chain(f"{A};{B}")
        one.burn(A, 0.0)
        one.burn(B, 0.0)
        walk = one.walk()
        assert walk.next(1.0) == A
        walk.arrived(1.0)
        assert one.burnt(1.0) == {B}

    def test_direct_is_never_burnt(self) -> None:
        """Without a forward proxy only the origin can fail."""
        one = chain(f"DIRECT;{A}")
        one.burn(DIRECT, 0.0)
        assert one.walk().next(0.0) == DIRECT

    def test_straight_at_last(self) -> None:
        """The way without a forward proxy can be had once, listed or not."""
        walk = chain(A).walk()
        assert [walk.next(0.0), walk.next(0.0), walk.straight(), walk.straight()] == [A, None, DIRECT, None]


class TestTimes:
    def test_low_speed(self) -> None:
        """Fewer bytes than the limit over a window of waiting are too few; a new window begins with each."""
        speed = LowSpeed(limit=100, window=5.0)
        assert not speed.is_slow(4.0, 0)
        assert not speed.is_slow(1.0, 500)
        assert speed.is_slow(5.0, 499)

    def test_patience(self) -> None:
        """A body that trickles may not go quiet for another window; one that came fast enough may pause for a whole one."""
        speed = LowSpeed(limit=100, window=5.0)
        assert speed.patience == 5.0
        speed.is_slow(4.0, 499)
        assert speed.patience == 1.0
        speed.is_slow(0.5, 1)
        assert speed.patience == 5.0

    def test_rest(self) -> None:
        """An origin that no way leads to rests longer each time, and failures of one moment count once."""
        rest = Rest()
        for now, until in [(0.0, 2.0), (1.0, 2.0), (2.0, 6.0), (6.0, 14.0), (14.0, 24.0), (24.0, 34.0)]:
            rest.failed(now)
            assert rest.until == until
        rest.succeeded()
        assert rest.until == 0.0
        rest.failed(50.0)
        assert rest.until == 52.0


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"X-Squid-Error": "ERR_CONNECT_FAIL 111"}, "ERR_CONNECT_FAIL 111"),
        ({"Proxy-Status": "squid.example; error=connection_refused"}, "squid.example; error=connection_refused"),
        ({"Proxy-Status": "cdn.example; hit"}, None),
        ({}, None),
    ],
)
def test_whose_answer_it_is(headers: dict[str, str], said: str | None) -> None:
    """An answer that a forward proxy wrote itself is told from one that it passed on."""
    assert forward_error(headers) == said
