"""The processes of an instance, kept running: each has lives, one after the other."""

import asyncio
import functools
from collections.abc import Coroutine, Iterator, Sequence
from time import monotonic
from typing import Final

import msgspec
import structlog

from registry_proxy.errors import RegistryProxyError
from registry_proxy.telemetry.sums import Family, Sample, Sums
from registry_proxy.workers.control import Apply, Begin, Process, Stop, Total
from registry_proxy.workers.life import Died, Life

_log = structlog.get_logger()

_POLL: Final = 5.0
"""Seconds between two reports: what a process has counted since the last one is lost when it is killed."""

_SILENT: Final = 30.0
"""Seconds without a report after which a process is taken to hang, and killed."""

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0
"""Seconds before a process is started again: doubled each time, unless it has lived for a while."""

_LIVED: Final = 60.0

_GIVE_UP: Final = 10
"""Times in a row that the fetcher may fail to begin."""

_CLOSING: Final = 30.0
"""Seconds that a process may take to end, beyond the time for running answers."""


class Post:
    """A process that is to run, and its life now."""

    def __init__(self, begin: Begin) -> None:
        self.begin = begin
        self.life: Life | None = None
        self.restarts = 0
        self.urls: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What its process inherits."""
        own = () if self.begin.listening is None else (self.begin.listening,)
        return (*own, *(one for doors in self.begin.doors for one in doors.descriptors))


class Staff:
    """The fetcher, and the servers."""

    def __init__(self, fetcher: Begin, servers: Sequence[Begin]) -> None:
        self._fetcher = Post(fetcher)
        self._servers = [Post(begin) for begin in servers]
        self._posts = [self._fetcher, *self._servers]
        self._sums = Sums()
        self._stopping = False
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._errands: set[asyncio.Task[None]] = set()

    async def start(self) -> list[str]:
        """Start all; where they listen. Raises StoreUnusable, ConfigInvalid, or what else keeps one from beginning."""
        for posts in ([self._fetcher], self._servers):
            for post in posts:
                post.task = asyncio.create_task(self._keep(post), name=post.begin.name)
                post.task.add_done_callback(functools.partial(self._kept, post))
            for post in posts:
                await post.urls
        self._run(self._poll())
        return list(self._servers[0].urls.result())

    async def failed(self) -> None:
        """Wait until the instance cannot go on; raises why."""
        await asyncio.shield(self._failure)

    def tell(self, note: Apply) -> None:
        """A configuration for all processes, and for those to come."""
        for post in self._posts:
            post.begin = msgspec.structs.replace(post.begin, config=note.config)
            if post.life is not None:
                post.life.tell(note)

    async def stop(self) -> None:
        """End the servers when their running answers have ended, then the fetcher."""
        self._stopping = True
        for errand in list(self._errands):
            errand.cancel()
        await asyncio.gather(*self._errands, return_exceptions=True)
        drain = self._fetcher.begin.config.server.drain
        await self._end(self._servers, drain + _CLOSING)
        await self._end([self._fetcher], _CLOSING)

    async def _end(self, posts: Sequence[Post], patience: float) -> None:
        tasks = {post.task for post in posts if post.task is not None}
        for post in posts:
            if post.life is not None:
                post.life.tell(Stop())
            elif post.task is not None:
                post.task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=patience)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _kept(self, post: Post, task: asyncio.Task[None]) -> None:
        """A process is kept running no longer: if that is a mistake of ours, the instance ends with it."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            for waited_for in (post.urls, self._failure):
                if not waited_for.done():
                    waited_for.set_exception(error)
                    waited_for.exception()

    # --- lives -----------------------------------------------------------------------------------------------------------

    async def _keep(self, post: Post) -> None:
        """One life after the other."""
        pause, failures = _FIRST_PAUSE, 0
        while not self._stopping:
            began = monotonic()
            trouble = await self._live(post)
            failures = failures + 1 if trouble is not None else 0
            if trouble is not None and not post.urls.done():
                post.urls.set_exception(trouble)
                return
            if trouble is not None and failures >= _GIVE_UP and post is self._fetcher:
                self._failure.set_exception(trouble)
                return
            if not self._stopping:
                post.restarts += 1
                await asyncio.sleep(pause)
                pause = _FIRST_PAUSE if monotonic() - began > _LIVED else min(2 * pause, _LONGEST_PAUSE)

    async def _live(self, post: Post) -> RegistryProxyError | None:
        """One life of a process; what kept it from beginning, if anything did."""
        try:
            life = await Life.start(post.begin, post.descriptors, lambda said: self._sums.note(key, said), self._wanted)
        except OSError as error:
            return RegistryProxyError(f"{post.begin.name} cannot be started: {error.strerror}")
        key = f"{post.begin.name} {life.pid}"
        post.life = life
        try:
            trouble = await self._begun(post, life)
            code = await life.ended()
        finally:
            life.kill()
            post.life = None
            self._sums.leave(key)
        if not self._stopping:
            _log.error("process.ended", name=post.begin.name, pid=life.pid, code=code, error=trouble and str(trouble))
        return trouble

    async def _begun(self, post: Post, life: Life) -> RegistryProxyError | None:
        try:
            ready = await life.ready()
        except Died as error:
            return RegistryProxyError(str(error))
        except RegistryProxyError as error:
            return error
        if post.urls.done():
            _log.info("process.restarted", name=post.begin.name, pid=life.pid, restarts=post.restarts)
        else:
            post.urls.set_result(ready.urls)
        return None

    # --- figures ---------------------------------------------------------------------------------------------------------

    def _lives(self) -> list[Life]:
        return [post.life for post in self._posts if post.life is not None and post.life.begun]

    async def _poll(self) -> None:
        """Ask all for reports now and then; kill one that has hung for long."""
        while True:
            await asyncio.sleep(_POLL)
            await asyncio.gather(*(life.report() for life in self._lives()))
            for life in self._lives():
                if monotonic() - life.heard > _SILENT:
                    _log.error("process.hangs", pid=life.pid, silent=_SILENT)
                    life.kill()

    def _wanted(self, life: Life, number: int) -> None:
        self._run(self._tell_total(life, number))

    async def _tell_total(self, life: Life, number: int) -> None:
        await asyncio.gather(*(one.report() for one in self._lives()))
        life.tell(Total(number, (*self._sums.total(), self._restarts()), tuple(self._processes())))

    def _restarts(self) -> Family:
        name = "registry_proxy_process_restarts"
        samples = (
            Sample(f"{name}_total", (("process", post.begin.name),), float(post.restarts)) for post in self._posts
        )
        return Family(name, "counter", "Times that a process was started again.", tuple(samples))

    def _processes(self) -> Iterator[Process]:
        for post in self._posts:
            if post.life is not None:
                yield Process(post.begin.name, post.life.pid, post.restarts, monotonic() - post.life.since)

    def _run(self, errand: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
