"""The listeners: from a configured address to answered requests, and back down in order."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import web

from registry_proxy.config import Config
from registry_proxy.config import Server as Settings
from registry_proxy.config.address import Address
from registry_proxy.errors import ConfigInvalid, RegistryProxyError
from registry_proxy.oci.names import SourceHost
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.web.chunks import Chunks
from registry_proxy.web.connection import Connection
from registry_proxy.web.edge import Edge
from registry_proxy.web.health import Health
from registry_proxy.web.heart import Blobs, Discovery, Manifests

log = structlog.get_logger()

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_BACKLOG = 1024
_LAST_WORDS = 1.0
"""Seconds that a handler has to end after it was told to."""


class Face:
    """All listeners of one instance. ``addresses``: where they really listen (port 0 becomes a port), in configured order."""

    def __init__(
        self,
        config: Config,
        *,
        manifests: Manifests,
        discovery: Discovery,
        blobs: Blobs,
        chunks: Chunks,
        metrics: Metrics,
        stats: Callable[[], Mapping[str, object]],
        ready: Callable[[], str | None],
    ) -> None:
        self.addresses: list[tuple[str, int]] = []
        self._config = config
        self._edge = Edge(config, manifests, discovery, blobs, chunks, metrics, Health(metrics, stats, ready))
        self._listeners: list[asyncio.Server] = []
        self._servers: list[_Connections] = []

    async def start(self) -> None:
        """Listen; raises ConfigInvalid, naming the key, if an address is malformed or taken. Nothing listens then."""
        try:
            for text in self._config.server.listen:
                await self._listen("server.listen", text, None)
            for host, upstream in self._config.upstreams.items():
                for text in upstream.listen:
                    await self._listen(f"upstream.{host}.listen", text, host)
        except ConfigInvalid:
            await self.stop()
            raise

    def stop_accepting(self) -> None:
        """Take no new connections and no further requests on those that are open; running answers go on."""
        for listener in self._listeners:
            listener.close()
        for server in self._servers:
            server.pre_shutdown()

    async def stop(self) -> None:
        """Stop accepting, let running answers finish for the drain time, then cut what is left."""
        self.stop_accepting()
        await self._edge.drained(self._config.server.drain)
        await asyncio.gather(*(server.shutdown(_LAST_WORDS) for server in self._servers))
        await asyncio.gather(*(listener.wait_closed() for listener in self._listeners))
        self._listeners.clear()
        self._servers.clear()

    async def _listen(self, key: str, text: str, upstream: SourceHost | None) -> None:
        at = _parsed(key, text)
        server = _Connections(functools.partial(self._edge.handle, upstream), self._config.server)
        loop = asyncio.get_running_loop()
        try:
            listener = await loop.create_server(server, at.host or None, at.port, backlog=_BACKLOG)
        except OSError as error:
            raise ConfigInvalid(f"{key}: cannot listen on {text}: {error.strerror}") from error
        self._servers.append(server)
        self._listeners.append(listener)
        name = listener.sockets[0].getsockname()
        self.addresses.append((name[0], name[1]))
        log.info("server.listening", address=text, port=name[1], upstream=upstream)


class _Connections(web.Server):
    """The connections of one listener."""

    def __init__(self, handle: Handle, settings: Settings) -> None:
        super().__init__(handle, handler_cancellation=True)
        self._settings = settings

    def __call__(self) -> Connection:
        """A fresh connection."""
        return Connection(self, self._settings)


def _parsed(key: str, text: str) -> Address:
    try:
        return Address.parse(text)
    except (ValueError, RegistryProxyError) as error:
        raise ConfigInvalid(f"{key}: {error}") from None
