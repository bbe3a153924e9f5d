import asyncio
from contextlib import AsyncExitStack

import pytest

from registry_proxy.net.slots import Slots
from registry_proxy.sources.base import Priority, Urgency


class Queue:
    """Tasks that take a slot, in the order in which they get it, and hold it until told."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.got: list[str] = []
        self.done: dict[str, asyncio.Event] = {}

    async def hold(self, name: str, urgency: Urgency | None) -> None:
        self.done[name] = asyncio.Event()
        async with self.slots.slot(urgency):
            self.got.append(name)
            await self.done[name].wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_foreground_goes_first() -> None:
    """A waiter that is urgent gets a slot before one that came earlier and is not."""
    queue = Queue(Slots(1))
    async with asyncio.TaskGroup() as group:
        group.create_task(queue.hold("first", None))
        group.create_task(queue.hold("prefetch", Urgency(Priority.PREFETCH)))
        group.create_task(queue.hold("reader", Urgency(Priority.FOREGROUND)))
        for name in ("first", "reader", "prefetch"):
            await settle()
            assert queue.got[-1] == name
            queue.done[name].set()


async def test_raised_waiter_overtakes() -> None:
    """A waiter whose urgency is raised overtakes those that are less urgent, and takes a kept slot at once."""
    queue = Queue(Slots(2))
    raised = Urgency(Priority.PREFETCH)
    async with asyncio.TaskGroup() as group:
        for name, urgency in (
            ("one", Urgency(Priority.PREFETCH)),
            ("two", Urgency(Priority.PREFETCH)),
            ("raised", raised),
        ):
            group.create_task(queue.hold(name, urgency))
        await settle()
        assert queue.got == ["one"]
        raised.raise_to(Priority.FOREGROUND)
        await settle()
        assert queue.got == ["one", "raised"]
        for name in ("one", "raised", "two"):
            queue.done[name].set()
            await settle()


async def test_prefetch_leaves_slots() -> None:
    """However much is prefetched, a quarter of the slots is left to readers."""
    queue = Queue(Slots(8))
    async with asyncio.TaskGroup() as group:
        for number in range(9):
            group.create_task(queue.hold(f"prefetch {number}", Urgency(Priority.PREFETCH)))
        await settle()
        assert len(queue.got) == 6
        group.create_task(queue.hold("reader", None))
        await settle()
        assert queue.got[-1] == "reader"
        for event in queue.done.values():
            event.set()
        await settle()
        for event in queue.done.values():
            event.set()


@pytest.mark.parametrize("granted", [False, True])
async def test_cancelled_waiter_keeps_nothing(granted: bool) -> None:
    """A waiter cancelled in the queue, or in the very moment its slot comes, leaves the slot to others."""
    slots = Slots(1)
    async with AsyncExitStack() as held:
        await held.enter_async_context(slots.slot())
        waiter = asyncio.create_task(Queue(slots).hold("never", None))
        await settle()
        if granted:
            await held.aclose()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
    async with asyncio.timeout(1), slots.slot():
        pass
