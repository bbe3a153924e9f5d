"""The listeners: from a configured address to answered requests, and back down in order."""

import asyncio
import errno
import functools
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog
from aiohttp import web

from registry_proxy.access.guard import NO_REALMS, OPEN, Guard, Realms
from registry_proxy.config import Config
from registry_proxy.config import Server as Settings
from registry_proxy.config.address import Address
from registry_proxy.errors import ConfigInvalid, RegistryProxyError
from registry_proxy.oci.names import SourceHost
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.web.chunks import Chunks
from registry_proxy.web.connection import Connection
from registry_proxy.web.edge import Edge
from registry_proxy.web.health import Figures, Health
from registry_proxy.web.heart import Blobs, Discovery, Manifests
from registry_proxy.web.limits import Limits
from registry_proxy.web.sockets import Door, bound, unlink
from registry_proxy.web.tls import Certificates

log = structlog.get_logger()

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_BACKLOG = 1024
_WHAT_TO_DO: Final = {
    errno.EADDRINUSE: "another program listens there, perhaps another instance; --listen or server.listen choose another port",
    errno.EADDRNOTAVAIL: "no interface of this machine has that address",
    errno.EACCES: "ports below 1024 are for root, or for a unit with AmbientCapabilities=CAP_NET_BIND_SERVICE",
}
_LAST_WORDS = 1.0
"""Seconds that a handler has to end after it was told to."""


@dataclass(frozen=True, slots=True)
class Place:
    """One configured address, bound. ``key``: of the configuration; ``upstream``: what its requests are for, if not named otherwise."""

    key: str
    text: str
    upstream: SourceHost | None
    doors: list[Door]


async def bind(config: Config) -> list[Place]:
    """Every configured address, bound and not listened on yet; raises ConfigInvalid, naming the key. Nothing is bound then."""
    wanted: list[tuple[str, str, SourceHost | None]] = [("server.listen", text, None) for text in config.server.listen]
    for host, upstream in config.upstreams.items():
        wanted += [(f"upstream.{host}.listen", text, host) for text in upstream.listen]
    places: list[Place] = []
    try:
        for key, text, of in wanted:
            places.append(Place(key, text, of, await _bound(key, text)))
    except ConfigInvalid:
        unbind(places)
        raise
    return places


def unbind(places: Sequence[Place]) -> None:
    """Close the sockets of these places, and remove those that have a name in the file system."""
    for door in (door for place in places for door in place.doors):
        path = door.getsockname() if door.family == socket.AF_UNIX else None
        door.close()
        if path:
            unlink(path)


class Face:
    """All listeners of one instance.

    ``addresses``: where those on TCP really listen (port 0 becomes a port), in configured order; ``urls``: all of them, Unix sockets
    (``unix:PATH``) included.
    """

    def __init__(
        self,
        config: Config,
        *,
        manifests: Manifests,
        discovery: Discovery,
        blobs: Blobs,
        chunks: Chunks,
        metrics: Metrics,
        figures: Figures,
        guard: Guard = OPEN,
        realms: Realms = NO_REALMS,
    ) -> None:
        self.addresses: list[tuple[str, int]] = []
        self.urls: list[str] = []
        self._paths: list[str] = []
        self._config = config
        self._limits = Limits(config.server, metrics)
        health = Health(figures)
        self._edge = Edge(config, manifests, discovery, blobs, chunks, metrics, health, self._limits, guard, realms)
        self._certificates: Certificates | None = None
        self._watch: asyncio.Task[None] | None = None
        self._listeners: list[asyncio.Server] = []
        self._servers: list[_Connections] = []

    @property
    def settings(self) -> Settings:
        """What it holds now."""
        return self._config.server

    async def start(self, places: Sequence[Place] = ()) -> None:
        """Listen; raises ConfigInvalid, naming the key, if an address is malformed or taken or a certificate is wrong. Nothing listens then.

        ``places``: bound by another process, which owns them; without any, what the configuration says is bound here.
        """
        try:
            if self._config.server.tls is not None:
                self._certificates = Certificates(self._config.server.tls)
                self._watch = asyncio.create_task(self._certificates.watch())
            if places:
                for place in places:
                    await self._listen(place, own=False)
            else:
                await self._listen_here()
        except ConfigInvalid:
            await self.stop()
            raise

    async def apply(self, settings: Settings) -> None:
        """Hold these limits and timeouts, and use these certificates, from now on; ``settings``: listens where and as it does already."""
        self._config = msgspec.structs.replace(self._config, server=settings)
        self._limits.apply(settings)
        self._edge.apply(settings)
        for server in self._servers:
            server.settings = settings
        if self._certificates is not None and settings.tls is not None:
            await self._certificates.renew(settings.tls)

    def stop_accepting(self) -> None:
        """Take no new connections and no further requests on those that are open; running answers go on."""
        for listener in self._listeners:
            listener.close()
        for server in self._servers:
            server.pre_shutdown()
        while self._paths:  # each once: somebody else may listen there by the time of the next call
            unlink(self._paths.pop())

    async def stop(self) -> None:
        """Stop accepting, let running answers finish for the drain time, then cut what is left."""
        self.stop_accepting()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._edge.drained(self._config.server.drain)
        await asyncio.gather(*(server.shutdown(_LAST_WORDS) for server in self._servers))
        await asyncio.gather(*(listener.wait_closed() for listener in self._listeners))
        self._listeners.clear()
        self._servers.clear()

    async def _listen_here(self) -> None:
        waiting = await bind(self._config)
        try:
            while waiting:
                await self._listen(waiting.pop(0), own=True)
        finally:
            unbind(waiting)

    async def _listen(self, place: Place, *, own: bool) -> None:
        server = _Connections(functools.partial(self._edge.handle, place.upstream), self._config.server)
        self._servers.append(server)
        try:
            await self._open_all(place.doors, server)
        except OSError as error:
            raise _cannot(place.key, place.text, error) from error
        self._note(place.doors[0], own=own)
        log.info("server.listening", address=place.text, url=self.urls[-1], upstream=place.upstream)

    async def _open_all(self, doors: list[Door], server: "_Connections") -> None:
        for index, door in enumerate(doors):
            try:
                self._listeners.append(await self._open(door, server))
            except OSError:
                for unused in doors[index:]:
                    unused.close()
                raise

    async def _open(self, door: Door, server: "_Connections") -> asyncio.Server:
        door.limits = self._limits
        loop = asyncio.get_running_loop()
        if self._certificates is None or door.family == socket.AF_UNIX:
            return await loop.create_server(server, sock=door, backlog=_BACKLOG)
        return await loop.create_server(
            server,
            sock=door,
            backlog=_BACKLOG,
            ssl=self._certificates.context,
            ssl_handshake_timeout=self._config.server.header_timeout,
            ssl_shutdown_timeout=_LAST_WORDS,
        )

    def _note(self, door: Door, *, own: bool) -> None:
        name = door.getsockname()
        if door.family == socket.AF_UNIX:
            self._paths += [name] if own else []
            self.urls.append(f"unix:{name}")
            return
        self.addresses.append((name[0], name[1]))
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        self.urls.append(f"{'http' if self._certificates is None else 'https'}://{host}:{name[1]}")


class _Connections(web.Server):
    """The connections of one listener. ``settings``: of those to come."""

    def __init__(self, handle: Handle, settings: Settings) -> None:
        super().__init__(handle, handler_cancellation=True)
        self.settings = settings

    def __call__(self) -> Connection:
        """A fresh connection."""
        return Connection(self, self.settings)


async def _bound(key: str, text: str) -> list[Door]:
    try:
        return await bound(Address.parse(text))
    except OSError as error:
        raise _cannot(key, text, error) from error
    except (ValueError, RegistryProxyError) as error:
        raise ConfigInvalid(f"{key}: {error}") from None


def _cannot(key: str, text: str, error: OSError) -> ConfigInvalid:
    why = _WHAT_TO_DO.get(error.errno or 0)
    return ConfigInvalid(f"{key}: cannot listen on {text}: {error.strerror}{f' ({why})' if why else ''}")
