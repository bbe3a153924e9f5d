"""The queue of lazy jobs where things come in the wrong moment: an asker who leaves, a disk that refuses, the same job once more."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from registry_proxy.errors import BlobUnknown
from registry_proxy.lazy.terms import Kind
from registry_proxy.lazy.work import queue as queue_module
from registry_proxy.lazy.work.job import Job, State
from registry_proxy.lazy.work.queue import Priority, Queue, job_file
from registry_proxy.telemetry.metrics import Metrics


def job(number: int = 0, repository: str = "library/python") -> Job:
    return Job(Kind.SOCI, "registry.example", repository, f"sha256:{number:016x}{0:048x}", 5, "", 1 << 22)


async def at_once(_: Job, __: Callable[[int], None]) -> None:
    """Nothing to do."""


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """A disk that takes its time to write a job down: set when it has begun; to be set for it to go on."""
    began, on, write = threading.Event(), threading.Event(), queue_module._write

    def slow(file: Path, what: Job) -> None:
        began.set()
        on.wait(10)
        write(file, what)

    monkeypatch.setattr(queue_module, "_write", slow)
    return began, on


async def test_a_job_is_done_though_its_asker_leaves(
    tmp_path: Path, slow_disk: tuple[threading.Event, threading.Event]
) -> None:
    """A client that vanishes while its job is being written down does not leave one behind that never begins."""
    writing, on = slow_disk
    queue = Queue(tmp_path, 1, at_once, Metrics())
    await queue.start()
    asking = asyncio.create_task(queue.ensure(job()))
    await asyncio.to_thread(writing.wait, 10)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    on.set()
    entry = await queue.ensure(job())
    await asyncio.wait_for(entry.over.wait(), 10)
    assert entry.state is State.DONE
    await queue.close()


async def test_a_job_that_becomes_urgent_before_it_is_written_down_is_done(
    tmp_path: Path, slow_disk: tuple[threading.Event, threading.Event]
) -> None:
    """Who asks for a layer that is just being noticed does not have it begun without its file, which would mean that it was cancelled."""
    writing, on = slow_disk
    queue = Queue(tmp_path, 1, at_once, Metrics())
    await queue.start()
    noticed = asyncio.create_task(queue.ensure(job(), Priority.EAGER))
    await asyncio.to_thread(writing.wait, 10)
    entry = await queue.ensure(job(), Priority.ASKED)
    await asyncio.wait({asyncio.ensure_future(entry.over.wait())}, timeout=0.2)  # it must not be over by now
    on.set()
    await asyncio.wait_for(entry.over.wait(), 10)
    assert (entry.state, await noticed) == (State.DONE, entry)
    await queue.close()


async def test_a_job_file_that_cannot_be_removed_ends_no_worker(tmp_path: Path) -> None:
    """A disk that refuses to remove a file keeps nobody from making the next layer."""

    async def do(what: Job, _: Callable[[int], None]) -> None:
        file = job_file(tmp_path, what.id)
        await asyncio.to_thread(file.unlink)
        await asyncio.to_thread(file.mkdir)

    queue = Queue(tmp_path, 1, do, Metrics())
    await queue.start()
    for number in range(2):
        entry = await queue.ensure(job(number))
        await asyncio.wait_for(entry.over.wait(), 10)
        assert entry.state is State.DONE
    await queue.close()


async def test_the_same_job_once_more_is_not_taken_for_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is asked for anew, for another repository, while the file of the failed one is being removed is not cancelled by that."""
    removing, on, unlink = threading.Event(), threading.Event(), Path.unlink

    def slow(file: Path, missing_ok: bool = False) -> None:
        removing.set()
        on.wait(10)
        unlink(file, missing_ok=missing_ok)

    async def do(what: Job, _: Callable[[int], None]) -> None:
        if what.repository == "library/stranger":
            raise BlobUnknown("it has no such layer")

    queue = Queue(tmp_path, 1, do, Metrics())
    await queue.start()
    monkeypatch.setattr(Path, "unlink", slow)
    failed = await queue.ensure(job(repository="library/stranger"))
    await failed.over.wait()
    await asyncio.to_thread(removing.wait, 10)
    asking = asyncio.create_task(queue.ensure(job()))
    await asyncio.wait({asking}, timeout=0.2)  # it may be written down now, or only when the other file is gone
    on.set()
    entry = await asking
    await asyncio.wait_for(entry.over.wait(), 10)
    assert entry.state is State.DONE
    await queue.close()


async def test_a_job_that_never_began_took_no_time(tmp_path: Path) -> None:
    """What could not even be written down is counted as failed, and not with the seconds since the machine started."""
    (tmp_path / "file").write_bytes(b"")
    metrics = Metrics()
    queue = Queue(tmp_path / "file", 1, at_once, metrics)
    entry = await queue.ensure(job())
    assert entry.state is State.FAILED
    sums = [sample for family in metrics.registry.collect() for sample in family.samples if "job" in sample.name]
    assert all(sample.value <= 1 for sample in sums if sample.name.endswith("_sum"))
    assert any(sample.value for sample in sums)
