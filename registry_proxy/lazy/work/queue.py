"""The jobs in hand: so many at a time, those that somebody waits for first, tried again after trouble, kept over a restart.

A job lies in a file of its own from when it is accepted to when it is over. Removing the file cancels the job, which only the owner of
the store can do (``registry-proxy lazy cancel``): the instance itself takes orders from nobody.
"""

import asyncio
import itertools
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Final

import msgspec
import structlog

from registry_proxy.errors import RegistryProxyError, StoreTrouble, Trouble
from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.work.job import OVER, Entry, Job, State
from registry_proxy.telemetry.metrics import Metrics

_log = structlog.get_logger()

Do = Callable[[Job, Callable[[int], None]], Awaitable[None]]
"""Does a job, telling the bytes of the layer taken so far. Raises LayerRefused, or Trouble or StoreTrouble if it may be tried again."""

_ATTEMPTS: Final = 3
_REST: Final = 20.0
"""Seconds before the second attempt; twice as long before each further one."""

_GRUDGE: Final = 60.0
"""Seconds for which a job that failed is not accepted again."""

_LOOK: Final = 1.0
"""Seconds between looks at whether a running job's file is still there."""

_OTHERS: Final = 16
"""Repositories, the newest, for which a job in hand is done as well."""

_REMEMBERED: Final = 200
"""Jobs that are over, kept for whoever asks."""

MOST: Final = 10_000
"""Jobs in the queue."""


class Priority(IntEnum):
    """Smaller is sooner."""

    ASKED = 0
    EAGER = 1


class Queue:
    """The jobs. ``directory``: of their files; ``workers``: how many run at a time."""

    def __init__(self, directory: Path, workers: int, do: Do, metrics: Metrics) -> None:
        self._directory = directory
        self._workers = workers
        self._do = do
        self._metrics = metrics
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._line: asyncio.PriorityQueue[tuple[int, int, Entry]] = asyncio.PriorityQueue()
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._filing = asyncio.Lock()  # who removes a job's file must not hit that of the next job of the same id

    async def start(self) -> None:
        """Take up what was left, and work."""
        for job in await asyncio.to_thread(_left, self._directory):
            await self.ensure(job, Priority.EAGER)
        for number in range(self._workers):
            self._spawn(self._work(), f"lazy worker {number}")

    async def close(self) -> None:
        """End what runs; its files stay, so that it begins anew after the next start."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ensure(self, job: Job, priority: Priority = Priority.ASKED) -> Entry:
        """The job's entry: the one in hand, one that failed a moment ago, or a new one. Beyond ``MOST`` a new one fails at once."""
        entry = self._entries.get(job.id)
        if entry is not None and (entry.state not in OVER or _begrudged(entry, job)):
            if entry.state not in OVER and job not in (entry.job, *entry.others):
                entry.others = [*entry.others, job][-_OTHERS:]
            if priority < entry.priority and entry.state is State.WAITING:
                entry.priority = priority
                if entry.filed:
                    self._enqueue(entry)
            return entry
        entry = self._entries[job.id] = Entry(job, priority)
        self._entries.move_to_end(job.id)
        if sum(self.states().values()) > MOST:
            self._finish(entry, State.FAILED, f"{MOST} jobs are waiting already")
            return entry
        await asyncio.shield(self._spawn(self._accept(entry), f"lazy job {job.id}"))  # others may ask for it by now
        return entry

    def states(self) -> Mapping[State, int]:
        """How many jobs wait and run."""
        return Counter(entry.state for entry in self._entries.values() if entry.state not in OVER)

    def stats(self, private: Callable[[str], bool]) -> list[dict[str, object]]:
        """What ``/stats`` shows: the jobs in hand, and the last that are over. ``private``: of which upstreams no names are shown."""
        return [entry.row(private=private(entry.job.upstream)) for entry in self._entries.values()]

    async def _accept(self, entry: Entry) -> None:
        """Write a new job down and put it in line."""
        try:
            async with self._filing:
                await asyncio.to_thread(_write, self._file(entry.job), entry.job)
        except OSError as error:
            self._finish(entry, State.FAILED, f"the job cannot be written down: {error.strerror or error}")
        else:
            entry.filed = True
            self._enqueue(entry)

    async def _remove(self, entry: Entry) -> None:
        """Remove the file of a job that is over, unless it has been asked for anew. One that will not go is done again after a restart."""
        try:
            async with self._filing:
                if self._entries.get(entry.job.id, entry) is entry:
                    await asyncio.to_thread(self._file(entry.job).unlink, missing_ok=True)
        except OSError as error:
            _log.warning("lazy.job_left", id=entry.job.id, error=str(error))

    def _enqueue(self, entry: Entry) -> None:
        self._line.put_nowait((entry.priority, next(self._numbers), entry))
        self._count()

    async def _work(self) -> None:
        while True:
            _, _, entry = await self._line.get()
            if entry.state is State.WAITING:
                await self._attempt(entry)

    async def _attempt(self, entry: Entry) -> None:
        entry.state, entry.began, entry.taken = State.RUNNING, time.monotonic(), 0
        entry.attempts += 1
        self._count()
        try:
            done = await self._watched(entry)
            self._finish(entry, State.DONE if done else State.CANCELLED)
        except LayerRefused as error:
            self._finish(entry, State.REFUSED, str(error))
        except (Trouble, StoreTrouble) as error:
            self._again(entry, str(error))
        except RegistryProxyError as error:
            self._fail(entry, str(error))
        except Exception as error:  # noqa: BLE001 - a mistake in one job must not end the queue
            _log.error("lazy.job_crashed", id=entry.job.id, exc_info=error)
            self._finish(entry, State.FAILED, f"{type(error).__name__}: {error}")
        if entry.state in OVER:
            await self._remove(entry)

    async def _watched(self, entry: Entry) -> bool:
        """Do the job; False if it was cancelled by the removal of its file."""

        def progress(taken: int) -> None:
            entry.taken = taken

        running = asyncio.ensure_future(self._do(entry.job, progress))
        try:
            while not running.done():
                if not await asyncio.to_thread(self._file(entry.job).exists):
                    return False
                await asyncio.wait({running}, timeout=_LOOK)
            running.result()
            return True
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def _again(self, entry: Entry, error: str) -> None:
        if entry.attempts >= _ATTEMPTS:
            self._fail(entry, error)
            return
        entry.state, entry.error = State.WAITING, error
        _log.warning("lazy.job_troubled", id=entry.job.id, error=error, attempt=entry.attempts)
        self._spawn(self._later(entry, _REST * 2 ** (entry.attempts - 1)), f"lazy again {entry.job.id}")

    def _fail(self, entry: Entry, error: str) -> None:
        """It cannot be had there: elsewhere perhaps. Who names a layer that he does not have, or wrongly, stops nobody who has it."""
        if not entry.others:
            self._finish(entry, State.FAILED, error)
            return
        _log.info("lazy.job_elsewhere", id=entry.job.id, error=error)
        entry.job, entry.state, entry.attempts = entry.others.pop(), State.WAITING, 0
        self._enqueue(entry)

    async def _later(self, entry: Entry, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._enqueue(entry)

    def _finish(self, entry: Entry, state: State, error: str = "") -> None:
        entry.state, entry.error, entry.ended = state, error, time.monotonic()
        entry.over.set()
        self._count()
        seconds = entry.ended - entry.began if entry.began else 0.0
        self._metrics.job_ended(str(entry.job.kind), str(state), seconds, entry.taken)
        say = _log.warning if state is State.FAILED else _log.info
        say(
            "lazy.job_over",
            id=entry.job.id,
            state=str(state),
            error=error,
            bytes=entry.taken,
            seconds=round(seconds, 3),
        )
        over = [key for key, each in self._entries.items() if each.state in OVER]
        for key in over[: max(len(over) - _REMEMBERED, 0)]:
            del self._entries[key]

    def _count(self) -> None:
        states = self.states()
        for state in (State.WAITING, State.RUNNING):
            self._metrics.jobs(str(state), states.get(state, 0))

    def _file(self, job: Job) -> Path:
        return job_file(self._directory, job.id)

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _begrudged(entry: Entry, job: Job) -> bool:
    """True if just this has failed a moment ago; for another repository the same may succeed."""
    return entry.job == job and entry.state is State.FAILED and time.monotonic() - entry.ended < _GRUDGE


def job_file(directory: Path, identity: str) -> Path:
    """Where the job of this id lies while it is in hand."""
    return directory / f"{identity}.json"


def _write(file: Path, job: Job) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = file.with_suffix(".new")
    beside.write_bytes(msgspec.json.encode(job))
    beside.replace(file)


def _left(directory: Path) -> list[Job]:
    """The jobs whose files were left, the oldest first; what cannot be read is removed."""
    found: list[tuple[float, Job]] = []
    for file in directory.glob("*.json"):
        try:
            found.append((file.stat().st_mtime, msgspec.json.decode(file.read_bytes(), type=Job)))
        except (OSError, msgspec.DecodeError) as error:
            _log.warning("lazy.job_unreadable", file=str(file), error=str(error))
            file.unlink(missing_ok=True)
    return [job for _, job in sorted(found, key=lambda pair: pair[0])]
