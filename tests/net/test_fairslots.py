import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.net.fairslots import FairSlots


class Crowd:
    """Tasks that take a slot, each on behalf of the client that is its name's first letter, and hold it until told."""

    def __init__(self, slots: FairSlots, group: asyncio.TaskGroup) -> None:
        self.slots = slots
        self.group = group
        self.got: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.done: dict[str, asyncio.Event] = {}

    async def ask(self, *names: str) -> None:
        for name in names:
            self.done[name] = asyncio.Event()
            self.tasks[name] = self.group.create_task(self._hold(name))
        await settle()

    async def _hold(self, name: str) -> None:
        async with self.slots.slot(name[0]):
            self.got.append(name)
            await self.done[name].wait()

    async def end(self, *names: str) -> None:
        for name in names:
            self.done[name].set()
        await settle()

    async def end_all(self) -> None:
        for name in self.done:
            await self.end(name)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_client_leaves_a_quarter() -> None:
    """However much one client asks at once, the first question of another finds a slot."""
    async with asyncio.TaskGroup() as group:
        crowd = Crowd(FairSlots(8), group)
        await crowd.ask(*(f"a{number}" for number in range(20)))
        assert crowd.got == [f"a{number}" for number in range(6)]
        await crowd.ask("b", "c")
        assert crowd.got[6:] == ["b", "c"]
        await crowd.end_all()
        assert len(crowd.got) == 22


async def test_who_holds_fewest_is_next() -> None:
    """A slot that becomes free goes to the client that has fewest, whoever came first."""
    async with asyncio.TaskGroup() as group:
        crowd = Crowd(FairSlots(3), group)
        await crowd.ask("a1", "a2", "b1", "a3", "b2", "c1")
        await crowd.end("b1", "a1", "a2")
        assert crowd.got == ["a1", "a2", "b1", "b2", "c1", "a3"]
        await crowd.end_all()


async def test_many_who_ask_much_starve_nobody() -> None:
    """As many clients as there are slots, each with more to ask than it ever gets answered, let another one in after a turn each."""
    async with asyncio.TaskGroup() as group:
        crowd = Crowd(FairSlots(2), group)
        await crowd.ask(*(f"{client}{number}" for number in range(9) for client in "ab"), "c")
        await crowd.end("a0", "b0", "a1")
        assert crowd.got == ["a0", "b0", "a1", "b1", "c"]
        await crowd.end_all()


@pytest.mark.parametrize("when", ["waiting", "granted", "just before"])
async def test_who_leaves_keeps_nothing(when: str) -> None:
    """A waiter cancelled in the line, with its slot just granted, or just before that, leaves the slot to others."""
    slots = FairSlots(1)
    async with AsyncExitStack() as held, asyncio.TaskGroup() as group:
        crowd = Crowd(slots, group)
        await held.enter_async_context(slots.slot("x"))
        await crowd.ask("a", "b")
        if when == "granted":
            await held.aclose()
        crowd.tasks["a"].cancel()
        if when == "just before":
            await held.aclose()
        await settle()
        await held.aclose()
        await settle()
        assert crowd.got == ["b"]
        await crowd.end("b")
        await crowd.ask("c")
        assert crowd.got == ["b", "c"]
        await crowd.end("c")


@given(st.integers(1, 8), st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["ask", "end", "cancel"]))))
async def test_whatever_happens_no_slot_is_lost_or_made(count: int, steps: list[tuple[str, str]]) -> None:
    """Never more than the slots are held, and at the end all of them can be had, each client's questions having been answered."""
    async with asyncio.TaskGroup() as group:
        crowd = Crowd(FairSlots(count), group)
        asked: Counter[str] = Counter()
        for client, step in steps:
            alive = [name for name, task in crowd.tasks.items() if name[0] == client and not task.done()]
            if step == "ask":
                await crowd.ask(f"{client}{asked[client]}")
                asked[client] += 1
            elif alive and step == "end":
                await crowd.end(alive[0])
            elif alive:
                crowd.tasks[alive[-1]].cancel()
            assert sum(name in crowd.got for name, task in crowd.tasks.items() if not task.done()) <= count
        await crowd.end_all()
        assert all(task.done() for task in crowd.tasks.values())
        await crowd.ask(*(chr(ord("d") + number) for number in range(count)))
        assert set(crowd.got[-count:]) == {chr(ord("d") + number) for number in range(count)}
        await crowd.end_all()
