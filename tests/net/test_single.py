import asyncio

import pytest

from registry_proxy.net.single import SingleFlight


class Work:
    """Work that runs until told, and counts."""

    def __init__(self) -> None:
        self.runs = 0
        self.cancelled = 0
        self.started = asyncio.Event()
        self.finish = asyncio.Event()

    async def __call__(self) -> int:
        self.runs += 1
        self.started.set()
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.runs


async def test_concurrent_callers_share_a_run() -> None:
    """Callers at the same time cost one run, one that comes later another."""
    flight: SingleFlight[str, int] = SingleFlight()
    work = Work()
    callers = [asyncio.create_task(flight.do("key", work)) for _ in range(5)]
    await asyncio.sleep(0)
    work.finish.set()
    assert await asyncio.gather(*callers) == [1] * 5
    assert await flight.do("key", work) == 2


async def test_one_caller_leaving_does_not_hurt_the_others() -> None:
    """A cancelled caller leaves the run to those who still wait."""
    flight: SingleFlight[str, int] = SingleFlight()
    work = Work()
    leaver, stayer = (asyncio.create_task(flight.do("key", work)) for _ in range(2))
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.sleep(0)
    work.finish.set()
    assert await stayer == 1
    assert work.cancelled == 0


async def test_last_caller_out_cancels() -> None:
    """When nobody waits any more the run is cancelled, and the next caller starts afresh."""
    flight: SingleFlight[str, int] = SingleFlight()
    work = Work()
    caller = asyncio.create_task(flight.do("key", work))
    await work.started.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.cancelled == 1
    work.finish.set()
    assert await flight.do("key", work) == 2


async def test_error_is_shared() -> None:
    """An error reaches every caller."""
    flight: SingleFlight[str, int] = SingleFlight()

    async def fail() -> int:
        await asyncio.sleep(0)
        raise KeyError

    results = await asyncio.gather(*(flight.do("key", fail) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in results] == [KeyError] * 3
