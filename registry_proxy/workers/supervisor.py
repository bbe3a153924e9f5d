"""The process that a service manager sees: starts the fetcher and the servers, starts them again, adds up what they count.

It holds every listening socket for as long as the instance lives. A server that dies takes its own connections with it and no others:
what nobody has accepted yet waits for the next process, and so do the servers' questions while the fetcher is started again.
"""

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import structlog

from registry_proxy import __version__
from registry_proxy.app import caught, reloaded
from registry_proxy.config import Config
from registry_proxy.net.hops import new_identity
from registry_proxy.telemetry import logs
from registry_proxy.web.limits import raise_open_files
from registry_proxy.web.server import Place, bind, unbind
from registry_proxy.workers.control import Apply, Begin, Doors
from registry_proxy.workers.staff import Staff

_log = structlog.get_logger()

_MODE = 0o600
_LONGEST_PATH = 107


async def serve(
    config: Config,
    *,
    ready: Callable[[list[str]], None] | None = None,
    reread: Callable[[], Config] | None = None,
) -> None:
    """Run an instance of several processes; everything else as ``app.serve`` has it."""
    logs.configure(config.log, process="supervisor")
    raise_open_files()
    signals = caught(hangup=reread is not None)
    async with _processes(config) as staff:
        urls = await staff.start()
        _log.info("server.ready", version=__version__, store=str(config.store.path), workers=config.server.workers)
        if ready is not None:
            ready(urls)
        while await _either(signals, staff) == signal.SIGHUP and reread is not None:
            config = await reloaded(config, reread, lambda changed: _apply(staff, changed))
        _log.info("server.stopping", drain=config.server.drain)


@contextlib.asynccontextmanager
async def _processes(config: Config) -> AsyncIterator[Staff]:
    """Those of an instance, not started yet, and what they inherit; leaving ends them, the servers first."""
    places = await bind(config)
    try:
        with _line() as (listening, path):
            identity, doors = new_identity(), tuple(map(_doors, places))
            fetcher = Begin("fetcher", "fetcher", config, identity, path, listening.fileno(), ())
            servers = [
                Begin("server", f"server-{number}", config, identity, path, None, doors)
                for number in range(1, config.server.workers + 1)
            ]
            staff = Staff(fetcher, servers)
            try:
                yield staff
            finally:
                await staff.stop()
    finally:
        unbind(places)


async def _either(signals: asyncio.Queue[int], staff: Staff) -> int:
    """The next signal; raises what keeps the processes from running."""
    signalled, failed = asyncio.create_task(signals.get()), asyncio.create_task(staff.failed())
    try:
        await asyncio.wait({signalled, failed}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            failed.result()
        return await signalled
    finally:
        signalled.cancel()
        failed.cancel()
        await asyncio.gather(signalled, failed, return_exceptions=True)


async def _apply(staff: Staff, config: Config) -> None:
    logs.set_level(config.log.level)
    staff.tell(Apply(config))


def _doors(place: Place) -> Doors:
    return Doors(place.key, place.text, place.upstream, tuple(door.fileno() for door in place.doors))


@contextlib.contextmanager
def _line() -> Iterator[tuple[socket.socket, str]]:
    """The socket that the fetcher listens on, and its path, in a directory that nobody else can enter."""
    with tempfile.TemporaryDirectory(prefix="registry-proxy-", dir=_runtime()) as directory:
        path = str(Path(directory, "fetcher"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(path)
            Path(path).chmod(_MODE)
            listening.listen(1024)
            yield listening, path


def _runtime() -> str:
    """Where short-lived files of a service go: as systemd says, as the session says, else /tmp; a socket's path has to be short."""
    for directory in (os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0], os.environ.get("XDG_RUNTIME_DIR", "")):
        if directory and os.access(directory, os.W_OK) and len(directory) < _LONGEST_PATH - 40:
            return directory
    return "/tmp"  # noqa: S108 - the directory made in it is private
