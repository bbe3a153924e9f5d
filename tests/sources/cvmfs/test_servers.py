"""Which server is asked, by what happened before."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from registry_proxy.errors import UpstreamBroken, UpstreamBusy, UpstreamDown, UpstreamFailed
from registry_proxy.plan.chunks import Span
from registry_proxy.sources.cvmfs.servers import Servers
from registry_proxy.sources.cvmfs.sinks import Memory
from registry_proxy.sources.cvmfs.workers import Workers
from tests.sources.cvmfs.conftest import Clock

ONE, TWO = "http://one.example/r", "http://two.example/r"


class Said:
    """An answer without a network."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.headers = headers

    async def pieces(self) -> AsyncIterator[bytes]:
        yield b"right"


class Site:
    """Servers that answer with a status of the test's choice."""

    def __init__(self) -> None:
        self.clock = Clock(0.0)
        self.statuses = {ONE: 200, TWO: 200}
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        self.servers = Servers((ONE, f"{TWO}/"), self._fetch, Workers(1), self.clock)

    @asynccontextmanager
    async def _fetch(
        self, url: str, *, no_cache: bool = False, key: bytes | None = None, span: Span | None = None
    ) -> AsyncIterator[Said]:
        server = url.removesuffix("/data/x")
        self.asked.append(server)
        yield Said(self.statuses[server], self.headers)

    async def get(self) -> str:
        """Get something; the server it came from."""
        self.asked.clear()
        sink, server = await self.servers.get("data/x", lambda: Memory(10), b"")
        assert sink.data == b"right"
        return server


async def test_a_failing_server_is_left_out_longer_each_time() -> None:
    """10 s, then 20 s, up to 5 min; after an answer it starts anew."""
    site = Site()
    site.statuses[ONE] = 500
    for pause in (10, 20, 40, 80, 160, 300, 300):
        assert await site.get() == TWO
        assert site.asked == [ONE, TWO]
        site.clock.now += pause - 0.1
        assert await site.get() == TWO
        assert site.asked == [TWO]
        site.clock.now += 0.1
    site.statuses[ONE] = 200
    assert await site.get() == ONE
    site.statuses[ONE] = 500
    await site.get()
    site.clock.now += 10
    await site.get()
    assert site.asked == [ONE, TWO]


async def test_a_busy_server_is_left_out_as_long_as_it_says() -> None:
    """429 is no failure: Retry-After is kept to, up to a minute."""
    site = Site()
    site.statuses[ONE] = 429
    site.headers = {"Retry-After": "7"}
    assert await site.get() == TWO
    site.clock.now += 7
    site.statuses[ONE] = 200
    assert await site.get() == ONE
    site.statuses = {ONE: 429, TWO: 429}
    site.headers = {"Retry-After": "86400"}
    with pytest.raises(UpstreamBusy) as caught:
        await site.get()
    assert caught.value.retry_after == 60


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_a_server_that_lacks_an_object_is_still_asked_for_others(status: int) -> None:
    """What one server lacks the next one may have; if none has it, that is trouble, since a catalog names it."""
    site = Site()
    site.statuses[ONE] = status
    for _ in range(2):
        assert await site.get() == TWO
        assert site.asked == [ONE, TWO]
    site.statuses[TWO] = 404
    with pytest.raises(UpstreamBroken, match="not there"):
        await site.get()


async def test_redirects_are_not_followed() -> None:
    """Anything but 200 is no answer."""
    site = Site()
    site.statuses = {ONE: 302, TWO: 206}
    with pytest.raises(UpstreamBroken, match="status 206"):
        await site.get()


async def test_when_all_are_left_out() -> None:
    """Nobody is asked until the first may be asked again."""
    site = Site()
    site.statuses = {ONE: 500, TWO: 503}
    with pytest.raises(UpstreamFailed):
        await site.get()
    with pytest.raises(UpstreamDown):
        await site.get()
    assert site.asked == []
    assert site.servers.states() == {ONE: False, TWO: False}
