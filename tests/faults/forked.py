"""Instances that start in a tenth of a second, to be killed by the dozen: forked from a process that has imported everything."""

import asyncio
import contextlib
import multiprocessing
import os
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from registry_proxy.app import serve
from registry_proxy.config import Config
from tests.fakes.wire import Wire

_NURSERY: Final = multiprocessing.get_context("forkserver")
_NURSERY.set_forkserver_preload(["tests.faults.forked"])

READY: Final = 60.0
"""Seconds that a start may take on a machine with other things to do."""


class Forked:
    """As much of ``tests.interop.harness.proxy.Proxy`` as a chaos needs. ``config``: listens on one address with a port."""

    def __init__(self, config: Config, log: Path) -> None:
        self.store = config.store.path
        self.address = config.server.listen[0]
        self.url = f"http://{self.address}"
        self._config = config
        self._log = log
        self._running: BaseProcess | None = None

    @property
    def process(self) -> "Forked":
        """It can be killed and stopped."""
        return self

    def wire(self) -> Wire:
        """A connection to it."""
        host, _, port = self.address.rpartition(":")
        return Wire((host, int(port)))

    def status(self, field: str) -> int:
        """A number of /proc/PID/status: ``VmRSS`` in kB, ``Threads``."""
        assert self._running is not None
        lines = Path(f"/proc/{self._running.pid}/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1])

    def sockets(self) -> int:
        """How many it has open."""
        assert self._running is not None
        count = 0
        for file in Path(f"/proc/{self._running.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                count += str(file.readlink()).startswith("socket:")
        return count

    def launch(self) -> Connection:
        """Start it; what is returned has something to read when it is ready."""
        ready, tell = _NURSERY.Pipe(duplex=False)
        self._running = _NURSERY.Process(target=_run, args=(self._config, tell, str(self._log)), daemon=True)
        self._running.start()
        tell.close()
        return ready

    def start(self) -> None:
        """Start it and wait until it is ready."""
        ready = self.launch()
        assert ready.poll(READY), self._log.read_text()
        assert ready.recv(), self._log.read_text()

    def kill(self) -> None:
        """SIGKILL, at whatever it is doing."""
        if self._running is not None:
            self._running.kill()
            self._running.join()
            self._running = None

    def stop(self) -> None:
        """SIGTERM."""
        if self._running is not None:
            self._running.terminate()
            self._running.join(READY)
            self.kill()


def _run(config: Config, tell: Connection, log: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    asyncio.run(serve(config, ready=tell.send))
