"""GETs through forward proxies: which way they go, what burns a way, what heals a cache."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from registry_proxy.config import Forwarding, Timeouts, Upstream
from registry_proxy.config.units import Seconds, Size
from registry_proxy.errors import UpstreamBroken, UpstreamDown, UpstreamUnreachable
from registry_proxy.net.client import Client
from registry_proxy.net.forward import Fetched, ForwardProxies
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.forward_proxies import DIRECT
from registry_proxy.plan.origins import Origin
from tests.fakes.station import Answering, Station, breaks_off, dead_url, in_turn, says, silent, starts

URL = "http://origin.invalid/x"
RIGHT, WRONG = says(b"right"), says(b"wrong")
SQUID_ERROR = says(b"oops", 503, X_Squid_Error="ERR_CONNECT_FAIL 111")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def ways(*groups: str, clock: Callable[[], float] | None = None, **more: object) -> AsyncIterator[ForwardProxies]:
    """The ways of these groups, with short timeouts."""
    quick = {"timeout": Seconds(0.2), "timeout_direct": Seconds(0.2), "shard": False, "low_speed": Size(100), **more}
    settings = Forwarding(groups=";".join(groups), **quick)  # type: ignore[arg-type]
    async with ForwardProxies(settings, b"seed", **({"clock": clock} if clock else {})) as made:
        yield made


async def body_of(proxies: ForwardProxies, url: str = URL, **words: object) -> tuple[int, bytes]:
    async with proxies.fetch(url, **words) as response:  # type: ignore[arg-type]
        return response.status, await response.read(1000)


async def is_right(answer: Fetched) -> None:
    if answer.status == 200 and answer.body != b"right":
        raise UpstreamBroken("wrong bytes")


async def test_a_forward_proxy_gets_the_whole_url() -> None:
    """A request through a forward proxy names the origin, and carries what the caller wants it to."""
    async with Station(RIGHT) as squid, ways(squid.url) as proxies:
        span = Span(2, 5)
        assert await body_of(proxies, no_cache=True, span=span, headers={"Via": "1.1 me"}) == (200, b"right")
        request = squid.seen[0]
        assert request.raw_path == URL
        wanted = {"Cache-Control": "no-cache", "Range": "bytes=2-4", "Via": "1.1 me", "Accept-Encoding": "identity"}
        assert wanted.items() <= dict(request.headers).items()


async def test_direct() -> None:
    """DIRECT asks the origin itself, with the path alone."""
    async with Station(RIGHT) as origin, ways(DIRECT) as proxies:
        assert await body_of(proxies, f"{origin.url}/x") == (200, b"right")
        assert origin.seen[0].raw_path == "/x"


@pytest.mark.parametrize("how", ["dead", "silent", "error page"])
async def test_a_failing_way_is_burnt_and_passed_over(how: str) -> None:
    """A forward proxy that takes no connection, says nothing or answers for itself is burnt once another one answers; requests
    go back to it after the reset time."""
    clock = Clock()
    bad_answer = {"dead": silent, "silent": silent, "error page": SQUID_ERROR}[how]
    async with Station(bad_answer) as bad, Station(RIGHT) as good:
        bad_url = await dead_url() if how == "dead" else bad.url
        async with ways(bad_url, good.url, clock=clock) as proxies:
            for _ in range(3):
                assert await body_of(proxies) == (200, b"right")
            assert len(bad.seen) == (how != "dead")
            assert proxies.chain.burnt(clock.now) == {bad_url}
            clock.now += 300
            assert proxies.chain.burnt(clock.now) == set()


@pytest.mark.parametrize("status", [404, 429, 500, 503])
async def test_what_the_origin_says_burns_nobody(status: int) -> None:
    """A failure that a forward proxy only passed on is the answer."""
    async with Station(says(b"", status)) as squid, Station(RIGHT) as other, ways(squid.url, other.url) as proxies:
        assert await body_of(proxies) == (status, b"")
        assert (await proxies.get(URL, is_right, limit=10)).status == status
        assert not proxies.chain.burnt(0.0)
        assert not other.seen


async def test_a_dead_origin_burns_nobody_and_rests() -> None:
    """If no way leads to an origin nobody on the way is burnt; it is left alone for two seconds, others are not."""
    clock = Clock()
    origin = await dead_url()
    async with Station(SQUID_ERROR) as squid, ways(squid.url, DIRECT, clock=clock) as proxies:
        for _ in range(2):
            with pytest.raises(UpstreamDown):
                await body_of(proxies, origin)
        assert len(squid.seen) == 1
        assert not proxies.chain.burnt(clock.now)
        squid.answer = RIGHT
        assert await body_of(proxies) == (200, b"right")
        clock.now += 2
        assert await body_of(proxies, origin) == (200, b"right")


async def test_a_key_decides_only_where_sharding_is_on() -> None:
    """With sharding the members of a group share the keys; without, one of them gets everything."""
    async with Station(RIGHT) as one, Station(RIGHT) as two:
        for shard in (True, False):
            async with ways(f"{one.url}|{two.url}", shard=shard) as proxies:
                for key in range(24):
                    await body_of(proxies, key=bytes([key]))
            assert (min(len(one.seen), len(two.seen)) > 0) is shard
            one.seen.clear()
            two.seen.clear()


class TestBodies:
    @pytest.mark.parametrize("answer", [breaks_off, starts(b"x", 1000)], ids=["cut", "slow"])
    async def test_a_broken_body_burns_its_way(self, answer: Answering) -> None:
        """A body that is cut or comes too slowly is trouble for its reader, and the next request goes another way."""
        async with Station(answer) as bad, Station(RIGHT) as good, ways(bad.url, good.url) as proxies:
            with pytest.raises(UpstreamUnreachable):
                await body_of(proxies)
            assert await body_of(proxies) == (200, b"right")
            assert len(bad.seen) == 1

    async def test_a_reader_that_takes_its_time_is_not_slowness(self) -> None:
        """Only waiting for bytes counts: time that passes between two reads burns nothing."""
        clock = Clock()
        async with Station(says(bytes(600_000))) as squid, ways(squid.url, clock=clock) as proxies:
            async with proxies.fetch(URL) as response:
                async for _ in response.pieces():
                    clock.now += 60
            assert not proxies.chain.burnt(clock.now)

    @pytest.mark.parametrize("answer", [breaks_off, starts(b"x", 1000)], ids=["cut", "slow"])
    async def test_get_goes_on_by_the_next_way(self, answer: Answering) -> None:
        """A whole object is had by the next way where a body breaks."""
        async with Station(answer) as bad, Station(RIGHT) as good, ways(bad.url, good.url) as proxies:
            fetched = await proxies.get(URL, is_right, limit=10)
            assert (fetched.body, fetched.way) == (b"right", good.url)


class TestWrongBytes:
    async def test_a_cache_is_healed(self) -> None:
        """Wrong bytes are asked for once more past the cache, and that is all if they are right then."""
        async with Station(in_turn(WRONG, RIGHT)) as squid, ways(squid.url) as proxies:
            fetched = await proxies.get(URL, is_right, limit=10)
            assert fetched.body == b"right"
            assert [request.headers.get("Cache-Control") for request in squid.seen] == [None, "no-cache"]
            assert not proxies.chain.burnt(0.0)

    async def test_then_the_next_way(self) -> None:
        """A forward proxy that gives wrong bytes twice is burnt once another one has the right ones."""
        async with Station(WRONG) as bad, Station(RIGHT) as good, ways(bad.url, good.url, clock=Clock()) as proxies:
            assert (await proxies.get(URL, is_right, limit=10)).way == good.url
            assert len(bad.seen) == 2
            assert proxies.chain.burnt(Clock.now) == {bad.url}

    async def test_straight_at_last(self) -> None:
        """If all on the way give wrong bytes, the origin is asked without them, listed or not."""
        async with Station(WRONG) as bad, Station(RIGHT) as origin, ways(bad.url) as proxies:
            assert (await proxies.get(f"{origin.url}/x", is_right, limit=10)).way == DIRECT

    async def test_wrong_everywhere(self) -> None:
        """Bytes that are wrong at the origin are trouble; they burn nobody, and the origin may be asked again at once."""
        async with Station(WRONG) as origin, Station(WRONG) as squid, ways(squid.url) as proxies:
            for _ in range(2):
                with pytest.raises(UpstreamBroken):
                    await proxies.get(f"{origin.url}/x", is_right, limit=10)
            assert not proxies.chain.burnt(0.0)
            assert len(origin.seen) == 4

    async def test_too_much(self) -> None:
        """A body beyond the limit is wrong bytes."""
        async with Station(in_turn(says(bytes(11)), RIGHT)) as squid, ways(squid.url) as proxies:
            assert (await proxies.get(URL, is_right, limit=10)).body == b"right"


class TestUpstreams:
    """The same groups on the way to an upstream (``Upstream.forward_proxy``)."""

    @staticmethod
    async def ask(client: Client, url: str, by: str | None = None) -> bytes:
        async with client.send("GET", url, by=Origin.of(by or url)) as response:
            return await response.read(1000)

    @staticmethod
    def settings(url: str, *groups: str) -> Upstream:
        quick = Timeouts(connect=Seconds(0.2), header=Seconds(0.2), idle=Seconds(0.2))
        return Upstream(urls=(url,), forward_proxy=";".join(groups), timeouts=quick)

    @pytest.mark.parametrize("answer", [silent, SQUID_ERROR], ids=["silent", "error page"])
    async def test_fail_over(self, answer: Answering) -> None:
        """An upstream is asked through the next forward proxy where one fails, and the failing one is left alone then."""
        async with Station(answer) as bad, Station(RIGHT) as good:
            async with Client(self.settings(URL, bad.url, good.url)) as client:
                for _ in range(3):
                    assert await self.ask(client, URL) == b"right"
            assert (len(bad.seen), len(good.seen)) == (1, 3)

    async def test_a_broken_body_burns_its_way(self) -> None:
        """After a body that broke, the next request to the upstream goes another way."""
        async with Station(breaks_off) as bad, Station(RIGHT) as good:
            settings = self.settings(URL, bad.url, good.url)
            async with Client(settings) as client:
                with pytest.raises(UpstreamUnreachable):
                    await self.ask(client, URL)
                assert await self.ask(client, URL) == b"right"

    async def test_straight_after_all(self) -> None:
        """With DIRECT in the list an upstream is asked without a forward proxy in the end; what it names is judged as ever."""
        async with Station(RIGHT) as origin:
            settings = self.settings(f"{origin.url}/x", await dead_url(), DIRECT)
            async with Client(settings) as client:
                assert await self.ask(client, f"{origin.url}/x") == b"right"
                with pytest.raises(UpstreamBroken, match="may not send us to a private address"):
                    await self.ask(client, origin.url.replace("127.0.0.1", "localhost"), by=URL)

    async def test_no_tunnel(self) -> None:
        """A forward proxy that refuses CONNECT is passed over."""
        async with Station(says(b"", 403)) as bad, Client(self.settings("https://origin.invalid", bad.url)) as client:
            with pytest.raises(UpstreamUnreachable, match="403 to CONNECT"):
                await self.ask(client, "https://origin.invalid/")
