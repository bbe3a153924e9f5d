"""Lazy jobs that fail: tried again, tried elsewhere, held against those who ask at once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from registry_proxy.errors import BlobUnknown, UpstreamBroken
from registry_proxy.lazy.terms import Kind
from registry_proxy.lazy.work import queue as queue_module
from registry_proxy.lazy.work.job import Job, State
from registry_proxy.lazy.work.queue import Priority, Queue, job_file
from registry_proxy.telemetry.metrics import Metrics

Do = Callable[[Job, Callable[[int], None]], Awaitable[None]]


def job(repository: str = "library/python", number: int = 0) -> Job:
    return Job(Kind.SOCI, "registry.example", repository, f"sha256:{number:016x}{0:048x}", 5, "", 1 << 22)


@asynccontextmanager
async def working(directory: Path, do: Do) -> AsyncIterator[Queue]:
    """A queue with one worker that does its jobs so."""
    queue = Queue(directory, 1, do, Metrics(()))
    await queue.start()
    try:
        yield queue
    finally:
        await queue.close()


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again at once."""
    monkeypatch.setattr(queue_module, "_REST", 0.0)


@pytest.mark.parametrize(("times", "state"), [(2, State.DONE), (3, State.FAILED)])
async def test_trouble_is_tried_again(tmp_path: Path, times: int, state: State) -> None:
    """An upstream that errs is given three chances; afterwards the job has failed with its last words, and leaves no file."""
    tried = 0

    async def do(_: Job, __: Callable[[int], None]) -> None:
        nonlocal tried
        tried += 1
        if tried <= times:
            raise UpstreamBroken(f"trouble number {tried}")

    async with working(tmp_path, do) as queue:
        entry = await queue.ensure(job())
        await entry.over.wait()
        assert (entry.state, tried) == (state, 3)
        assert entry.error == ("trouble number 3" if state is State.FAILED else "")
        await (await queue.ensure(job(number=1))).over.wait()  # begun once all is done about the first
        assert not job_file(tmp_path, job().id).exists()


async def test_a_failure_is_held_against_who_asks_again(tmp_path: Path) -> None:
    """The same job is not begun anew at once; for another repository, which may have the layer, it is."""

    async def do(wanted: Job, _: Callable[[int], None]) -> None:
        if wanted.repository == job().repository:
            raise BlobUnknown("no such layer")

    async with working(tmp_path, do) as queue:
        entry = await queue.ensure(job())
        await entry.over.wait()
        assert (entry.state, entry.error) == (State.FAILED, "no such layer")
        assert await queue.ensure(job()) is entry
        other = await queue.ensure(job("library/debian"))
        await other.over.wait()
        assert other.state is State.DONE


async def test_what_fails_for_one_is_done_for_another(tmp_path: Path) -> None:
    """A repository that names a layer it does not have spoils nothing for those that asked for the same layer meanwhile."""
    asked, on = asyncio.Event(), asyncio.Event()

    async def do(wanted: Job, _: Callable[[int], None]) -> None:
        asked.set()
        await on.wait()
        if wanted.repository == job().repository:
            raise BlobUnknown("no such layer")

    async with working(tmp_path, do) as queue:
        first = await queue.ensure(job())
        await asked.wait()
        assert await queue.ensure(job("library/debian")) is first
        on.set()
        await first.over.wait()
        assert (first.state, first.job.repository) == (State.DONE, "library/debian")


async def test_a_mistake_in_one_job_ends_that_job_only(tmp_path: Path) -> None:
    """An exception that nobody thought of fails its job; the worker does the next."""

    async def do(wanted: Job, _: Callable[[int], None]) -> None:
        if wanted == job():
            raise ZeroDivisionError("a mistake")

    async with working(tmp_path, do) as queue:
        entries = [await queue.ensure(each) for each in (job(), job(number=1))]
        for entry in entries:
            await entry.over.wait()
        assert [entry.state for entry in entries] == [State.FAILED, State.DONE]
        assert "ZeroDivisionError" in entries[0].error


async def test_what_somebody_waits_for_comes_first(tmp_path: Path) -> None:
    """Of the jobs in line those that a client waits for are done before the eager ones, whenever they came."""
    done: list[Job] = []

    async def do(wanted: Job, _: Callable[[int], None]) -> None:
        done.append(wanted)

    queue = Queue(tmp_path, 1, do, Metrics(()))
    entries = [await queue.ensure(job(number=number), Priority.EAGER) for number in (1, 2)]
    entries.append(await queue.ensure(job(number=3)))
    await queue.start()
    try:
        for entry in entries:
            await entry.over.wait()
    finally:
        await queue.close()
    assert done == [job(number=number) for number in (3, 1, 2)]
