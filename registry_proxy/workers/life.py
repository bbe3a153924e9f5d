"""One life of one process, as the supervisor sees it: from its start to its end."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from time import monotonic
from typing import Final

from registry_proxy.telemetry.sums import Family
from registry_proxy.workers import control
from registry_proxy.workers.control import AskTotal, Begin, Figures, Note, Ready, Refused
from registry_proxy.workers.wire import Wire, WireLost

_REPORT_IN: Final = 1.0
"""Seconds in which a process says what it has counted; who asks for the figures waits no longer."""


class Died(Exception):
    """The process ended before it was ready."""


class Life:
    """A process that runs. ``told``: called with what it has counted; ``wanted``: with the number under which it wants to know
    what all have.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        wire: Wire,
        told: Callable[[tuple[Family, ...]], None],
        wanted: Callable[["Life", int], None],
    ) -> None:
        self.since = monotonic()
        self.heard = monotonic()
        self.pid = process.pid
        self._process = process
        self._wire = wire
        self._told = told
        self._wanted = wanted
        self._reported = asyncio.Event()
        self._begun: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._listening = asyncio.create_task(self._listen(), name=f"process {process.pid}")

    @classmethod
    async def start(
        cls,
        begin: Begin,
        descriptors: Collection[int],
        told: Callable[[tuple[Family, ...]], None],
        wanted: Callable[["Life", int], None],
    ) -> "Life":
        """Start a process, which inherits these descriptors; raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "registry_proxy.workers.child", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *descriptors),
                process_group=0,  # Ctrl-C in a terminal is for the supervisor alone
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},  # noqa: PTH109
            )
        _, wire = await asyncio.get_running_loop().create_unix_connection(Wire, sock=ours)
        life = cls(process, wire, told, wanted)
        life.tell(begin)
        return life

    @property
    def begun(self) -> bool:
        """True once it does its work."""
        return self._begun.done() and self._begun.exception() is None

    def tell(self, note: Note) -> None:
        """Say something to it."""
        self._wire.send(control.pack(note))

    async def ready(self) -> Ready:
        """Wait until it does its work. Raises Died, and what keeps it from beginning."""
        return await asyncio.shield(self._begun)

    async def report(self) -> None:
        """Have it say what it has counted; if it does not at once, what it said last has to do."""
        self._reported.clear()
        self.tell(control.Report())
        with suppress(TimeoutError):
            async with asyncio.timeout(_REPORT_IN):
                await self._reported.wait()

    async def ended(self) -> int:
        """Wait for its end. The exit code; below zero: the number of the signal that ended it."""
        code = await self._process.wait()
        await self._listening  # its last words
        return code

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def _listen(self) -> None:
        try:
            while True:
                self._hear(control.reply(await self._wire.receive()))
        except WireLost:
            pass
        finally:
            self._wire.close()
            if not self._begun.done():
                self._begun.set_exception(Died(f"process {self.pid} ended before it was ready"))
                self._begun.exception()  # it may be that nobody waits

    def _hear(self, reply: control.Reply) -> None:
        self.heard = monotonic()
        match reply:
            case Ready():
                self._begun.set_result(reply)
            case Refused():
                self._begun.set_exception(control.refusal(reply))
                self._begun.exception()
            case Figures(figures):
                self._told(figures)
                self._reported.set()
            case AskTotal(number):
                self._wanted(self, number)
