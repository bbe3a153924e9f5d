"""Threads that may hang: nobody waits longer than the limit, and there is always one more, up to a limit."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_proxy.tiers.unjoined import Unjoined


@pytest.fixture
def hang() -> Iterator[threading.Event]:
    """What hanging calls wait for; set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def threads() -> Iterator[Unjoined]:
    unjoined = Unjoined("test", 2, 4)
    yield unjoined
    unjoined.close()


async def test_results_and_errors_come_back(threads: Unjoined) -> None:
    """What the call returns or raises reaches whoever waits."""
    assert await threads.run(lambda: 7, 5) == 7
    with pytest.raises(FileNotFoundError):
        await threads.run(Path("/nonexistent").read_bytes, 5)


async def test_a_call_that_hangs_costs_its_limit(threads: Unjoined, hang: threading.Event) -> None:
    """Its caller gets a TimeoutError; when it returns after all, it says so."""
    returned: asyncio.Queue[object] = asyncio.Queue()
    with pytest.raises(TimeoutError):
        await threads.run(lambda: hang.wait(30), 0.01, returned.put_nowait)
    assert threads.hung == 1
    hang.set()
    assert await asyncio.wait_for(returned.get(), 5) is True
    assert threads.hung == 0


async def test_hung_threads_are_replaced_up_to_a_limit(threads: Unjoined, hang: threading.Event) -> None:
    """With four of four threads hung nothing is taken up any more, and a call given up on in the queue never runs."""
    ran: list[int] = []
    for _ in range(4):
        with pytest.raises(TimeoutError):
            await threads.run(lambda: hang.wait(30), 0.01)
        if threads.hung < 4:
            assert await threads.run(lambda: 1, 5) == 1
    assert threads.hung == 4
    with pytest.raises(TimeoutError):
        await threads.run(lambda: ran.append(1), 0.01)
    hang.set()
    assert await threads.run(lambda: 2, 5) == 2
    assert not ran


async def test_a_caller_that_leaves_leaves_the_result_to_be_tidied_up(threads: Unjoined, hang: threading.Event) -> None:
    """Cancelled while the call runs: what it returns goes to ``late``."""
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    late: asyncio.Queue[object] = asyncio.Queue()

    def work() -> str:
        loop.call_soon_threadsafe(begun.set)
        hang.wait(30)
        return "opened"

    task = asyncio.create_task(threads.run(work, 30, late.put_nowait))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    hang.set()
    assert await asyncio.wait_for(late.get(), 5) == "opened"


async def test_closing_does_not_wait(hang: threading.Event) -> None:
    """A thread that hangs is left to itself; the others end."""
    threads = Unjoined("test-closing", 2, 4)
    with pytest.raises(TimeoutError):
        await threads.run(lambda: hang.wait(30), 0.01)
    threads.close()
    with pytest.raises(RuntimeError):
        await threads.run(lambda: 1, 1)
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "test-closing"] == [True]
