import asyncio
from contextlib import suppress

import pytest

from registry_proxy.errors import UpstreamDown, UpstreamUnreachable
from registry_proxy.net.outages import Outages
from registry_proxy.net.slots import Slots


class Host:
    """An upstream with one slot, and a clock. Exchanges take as long, and end, as they are told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.outages = Outages(lambda: self.now)
        self.slots = Slots(1)
        self.tried = 0

    async def exchange(self, seconds: float, *, fails: bool, what: str = "it") -> None:
        async with self.outages.line(what, self.slots.slot()):
            await asyncio.sleep(0)  # so that others come while it has the slot
            self.watched(seconds, fails=fails, what=what)

    def watched(self, seconds: float, *, fails: bool, what: str = "it") -> None:
        with self.outages.watched(what):
            self.tried += 1
            self.now += seconds
            if fails:
                raise UpstreamUnreachable("nothing comes")

    async def crowd(self, seconds: float, *, what: str = "it") -> list[BaseException | None]:
        """What becomes of an exchange that fails after so long, and of two more that have waited in line for it."""
        waiting = (self.exchange(0, fails=False), self.exchange(0, fails=False, what=what))
        return await asyncio.gather(self.exchange(seconds, fails=True), *waiting, return_exceptions=True)


@pytest.fixture
def host() -> Host:
    return Host()


async def test_a_line_before_a_silent_host_ends_at_once(host: Host) -> None:
    """When it has answered nobody for the time of an exchange, that is the answer to all who have waited for theirs."""
    first, *others = await host.crowd(20)
    assert type(first) is UpstreamUnreachable
    assert [type(each) for each in others] == [UpstreamDown] * 2
    assert host.tried == 1


async def test_who_comes_later_tries_again(host: Host) -> None:
    """An outage is over as soon as somebody finds it over; nothing is held against the host."""
    await host.crowd(20)
    await host.exchange(0, fails=False)
    assert host.tried == 2


async def test_what_fails_at_once_is_each_ones_own(host: Host) -> None:
    """A connection that is refused or reset holds nobody up: everybody tries."""
    assert [type(each) for each in await host.crowd(0.5)] == [UpstreamUnreachable, type(None), type(None)]
    assert host.tried == 3


async def test_others_have_another_host(host: Host) -> None:
    """Who waits in the same line for something else does not suffer."""
    assert (await host.crowd(20, what="another"))[2] is None


async def test_a_host_that_answers_others_is_not_silent(host: Host) -> None:
    """One answer that does not come, while others do, says nothing about those."""
    async with host.slots.slot():
        waiting = asyncio.create_task(host.exchange(0, fails=False))
        await asyncio.sleep(0)
        with suppress(UpstreamUnreachable), host.outages.watched("it"):
            host.watched(10, fails=False)
            host.now += 10
            raise UpstreamUnreachable("nothing comes")
    await waiting


async def test_an_answer_ends_it(host: Host) -> None:
    """Who has waited while it fell silent, and until it answered again, has its turn."""
    async with host.slots.slot():
        waiting = asyncio.create_task(host.exchange(0, fails=False))
        await asyncio.sleep(0)
        with suppress(UpstreamUnreachable):
            host.watched(20, fails=True)
        host.watched(1, fails=False)
    await waiting
