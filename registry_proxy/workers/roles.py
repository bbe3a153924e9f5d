"""What a process of the instance does: fetch for all, or serve."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, Protocol

import msgspec
import structlog

from registry_proxy.access import passwords
from registry_proxy.access.passwords import Passwords
from registry_proxy.app import Instance, assemble
from registry_proxy.config import Config
from registry_proxy.config import Server as Settings
from registry_proxy.errors import ConfigInvalid, RegistryProxyError
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import SourceHost
from registry_proxy.telemetry import logs, sums
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.tiers.view import StoreView
from registry_proxy.web.chunks import Chunks
from registry_proxy.web.server import Face, Place
from registry_proxy.web.sockets import inherited
from registry_proxy.workers.blobs import RemoteBlobs
from registry_proxy.workers.calls import Done, Doubt, GetStats, Stats, Used
from registry_proxy.workers.control import Begin, Total
from registry_proxy.workers.desk import Desk
from registry_proxy.workers.gates import Served
from registry_proxy.workers.line import Line
from registry_proxy.workers.lookups import RemoteChunks, RemoteDiscovery, RemoteManifests

_log = structlog.get_logger()

_TENDING: Final = 2.0
"""Seconds between two reports of what was read."""

_AGING: Final = 15
"""So many of them later, open files that were not used are closed."""


class Supervisor(Protocol):
    """The process above this one."""

    async def total(self) -> Total:
        """The figures of the whole instance; raises NotSoon."""


class Role(Protocol):
    """What a process does. ``urls``: where it listens; ``metrics``: its own."""

    urls: list[str]
    metrics: Metrics

    async def apply(self, config: Config) -> None:
        """The configuration was read again."""


class Fetcher:
    """The ordinary instance, behind a desk instead of listeners."""

    def __init__(self, instance: Instance) -> None:
        self.urls: list[str] = []
        self.metrics = instance.metrics
        self._instance = instance

    async def apply(self, config: Config) -> None:
        """Log at this level, and hold what else can change at once."""
        logs.set_level(config.log.level)
        try:
            await self._instance.apply(config)
        except ConfigInvalid as error:  # a file that was right when the supervisor looked at it
            _log.error("config.refused", error=str(error))


@asynccontextmanager
async def fetching(begin: Begin) -> AsyncIterator[Fetcher]:
    """The fetcher at work. Raises StoreUnusable."""
    if begin.listening is None:
        raise ValueError("a fetcher listens")
    async with assemble(begin.config, identity=begin.identity) as instance:
        desk = Desk(instance)
        await desk.start(socket.socket(fileno=begin.listening))
        try:
            yield Fetcher(instance)
        finally:
            await desk.stop(begin.config.server.drain)


class Server:
    """The ordinary face before remote services."""

    def __init__(self, face: Face, metrics: Metrics, passwords: Passwords, served: Served) -> None:
        self.urls = face.urls
        self.metrics = metrics
        self._face = face
        self._passwords = passwords
        self._served = served

    async def apply(self, config: Config) -> None:
        """Hold these limits, know these users, serve these upstreams, and log at this level."""
        logs.set_level(config.log.level)
        self._passwords.apply(config)
        self._served.apply(config)
        await self._face.apply(share(config.server))


class Figures:
    """What a server says about the whole instance."""

    def __init__(self, line: Line, supervisor: Supervisor) -> None:
        self._line = line
        self._supervisor = supervisor

    async def exposition(self) -> bytes:
        """The metrics of all processes, added up; raises NotSoon."""
        return sums.exposition((await self._supervisor.total()).figures)

    async def stats(self) -> Mapping[str, object]:
        """The fetcher's figures, and the processes. Raises NotSoon."""
        told = await self._line.ask(GetStats(), Stats)
        total = await self._supervisor.total()
        own = {"served": sums.served(total.figures), "processes": total.processes}
        return msgspec.json.decode(told.json, type=dict[str, object]) | own

    def unready(self) -> str | None:
        """Without the fetcher there are hits, and nothing else."""
        return "the process that fetches is being started again" if self._line.away else None


@asynccontextmanager
async def serving(begin: Begin, supervisor: Supervisor) -> AsyncIterator[Server]:
    """A server at work; leaving lets running answers finish for the drain time. Raises ConfigInvalid."""
    config = msgspec.structs.replace(begin.config, server=share(begin.config.server))
    metrics = Metrics(config.upstreams)
    async with passwords.opened(config, partial(metrics.refused, "password")) as checked:
        line = Line(begin.line, config.policy.patience)

        async def doubt(digest: Digest, index: int) -> None:
            await line.ask(Doubt(digest, index), Done)

        view = StoreView(config.store, doubt)
        served = Served(config, checked, line)
        face = Face(
            msgspec.structs.replace(config, upstreams=served.settings),
            manifests=RemoteManifests(line),
            discovery=RemoteDiscovery(line),
            blobs=RemoteBlobs(line, view),
            chunks=Chunks(RemoteChunks(line, view), begin.identity, served.settings, served.guard),
            metrics=metrics,
            figures=Figures(line, supervisor),
            guard=served.guard,
            realms=served.realms,
        )
        tending = asyncio.create_task(_tend(line, view), name="store view")
        try:
            await face.start(_places(begin))
            yield Server(face, metrics, checked, served)
        finally:
            await face.stop()
            tending.cancel()
            await asyncio.gather(tending, return_exceptions=True)
            await view.close()
            await line.close()


def share(settings: Settings) -> Settings:
    """One server's limits: its part of what all may have together, and in full what each client may have."""
    return msgspec.structs.replace(
        settings,
        connections=-(-settings.connections // settings.workers),
        bodies=-(-settings.bodies // settings.workers),
    )


def _places(begin: Begin) -> list[Place]:
    return [
        Place(one.key, one.text, SourceHost(one.upstream) if one.upstream else None, inherited(one.descriptors))
        for one in begin.doors
    ]


async def _tend(line: Line, view: StoreView) -> None:
    """Tell the fetcher what was read, so that it is not evicted, and close idle files."""
    round_ = 0
    while True:
        await asyncio.sleep(_TENDING)
        used = tuple((key.digest, key.number) for key in view.marks())
        with suppress(RegistryProxyError):  # away: what is read goes on being read
            await line.ask(Used(used), Done)
        round_ += 1
        if not round_ % _AGING:
            view.age()
