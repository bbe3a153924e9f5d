"""The edge of every request: dispatch, failures, one log line, metrics. What is not even HTTP ends in ``connection``.

aiohttp's application, router and middlewares are not used: paths are parsed by ``plan.routing``, which also keeps anything
malformed away from the rest, for a third of the cost.
"""

import asyncio
import itertools
import secrets
from http import HTTPStatus
from time import monotonic

import structlog
from aiohttp import web

from registry_proxy.config import Config
from registry_proxy.config import Server as Settings
from registry_proxy.errors import RegistryProxyError, StoreUnusable, UnknownUpstream, WriteRefused
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan import chunk_objects, routing
from registry_proxy.plan.routing import (
    Asked,
    BlobRoute,
    CatalogRoute,
    ManifestRoute,
    Ping,
    ReferrersRoute,
    Route,
    TagsRoute,
    Target,
)
from registry_proxy.telemetry.logs import REQUEST
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.web import blobs, failures, lists, manifests, referrers
from registry_proxy.web.body import BodyShort
from registry_proxy.web.chunks import Chunks
from registry_proxy.web.exchange import ClientGone, Exchange
from registry_proxy.web.health import Health
from registry_proxy.web.heart import Blobs, Discovery, Manifests
from registry_proxy.web.limits import Limits

log = structlog.get_logger()

_LOGGED = 512
"""Characters of a path in a log line; a repository name and a digest need 400."""

_CLIENT_LEFT = 499
"""For the log and the metrics: the client left before there was an answer (nginx's number; never on the wire)."""

_KINDS: dict[type[Route], str] = {
    Ping: "ping",
    ManifestRoute: "manifest",
    BlobRoute: "blob",
    TagsRoute: "tags",
    ReferrersRoute: "referrers",
    CatalogRoute: "catalog",
}


class Edge:
    """Answers requests. ``active``: how many are being answered."""

    def __init__(
        self,
        config: Config,
        manifests: Manifests,
        discovery: Discovery,
        blobs: Blobs,
        chunks: Chunks,
        metrics: Metrics,
        health: Health,
        limits: Limits,
    ) -> None:
        self.active = 0
        self._settings = config.server
        self._upstreams = config.upstreams
        self._manifests = manifests
        self._discovery = discovery
        self._blobs = blobs
        self._chunks = chunks
        self._metrics = metrics
        self._health = health
        self._limits = limits
        self._idle = asyncio.Event()
        self._ids = itertools.count(1)
        self._instance = secrets.token_hex(3)

    async def handle(self, listener: SourceHost | None, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to one request, already sent. ``listener``: the upstream that its listener stands for."""
        exchange = Exchange(request, f"{self._instance}-{next(self._ids):x}", listener)
        REQUEST.set(exchange.id)
        self.active += 1
        try:
            return await self._answered(exchange)
        finally:
            self.active -= 1
            if not self.active:
                self._idle.set()
            self._observe(exchange)

    def apply(self, settings: Settings) -> None:
        """Hold these timeouts and limits from the next request on."""
        self._settings = settings

    async def drained(self, seconds: float) -> None:
        """Wait until no request is being answered, but no longer than this."""
        self._idle.clear()
        if self.active:
            try:
                await asyncio.wait_for(self._idle.wait(), seconds)
            except TimeoutError:
                log.warning("server.drain_ended", active=self.active, seconds=seconds)

    async def _answered(self, exchange: Exchange) -> web.StreamResponse:
        try:
            response = await self._attempt(exchange)
            if exchange.response is None:
                await exchange.deliver(response, self._settings.idle_timeout)
        except ClientGone as error:
            return self._cut(exchange, "client", error)
        except asyncio.CancelledError:
            exchange.cut_by = "client" if exchange.request.transport is None else "proxy"
            raise
        return response

    async def _attempt(self, exchange: Exchange) -> web.StreamResponse:
        """The answer, or what a failure is answered with; once headers are out, the only answer to a failure is a cut."""
        try:
            return await self._dispatch(exchange)
        except ClientGone:
            raise
        except RegistryProxyError as error:
            return self._failed(exchange, error, error)
        except (OSError, BodyShort) as error:
            return self._failed(exchange, error, StoreUnusable(f"the store cannot be read: {error}"))
        except Exception as error:  # a mistake of ours must not become aiohttp's own answer
            log.exception("request.broke", path=exchange.path[:_LOGGED])
            return self._failed(exchange, error, RegistryProxyError("an internal error; the log has it"))

    def _failed(self, exchange: Exchange, error: Exception, told: RegistryProxyError) -> web.StreamResponse:
        if exchange.response is not None:
            return self._cut(exchange, "proxy", error)
        exchange.error = f"{type(error).__name__}: {error}"
        return failures.response(exchange, told)

    def _cut(self, exchange: Exchange, by: str, error: Exception) -> web.StreamResponse:
        exchange.cut_by = by
        exchange.error = f"{type(error).__name__}: {error}"
        exchange.abort()
        return exchange.response or exchange.answer(_CLIENT_LEFT)

    async def _dispatch(self, exchange: Exchange) -> web.StreamResponse:
        request = exchange.request
        await self._limits.turn(request.remote)
        if request.method not in ("GET", "HEAD"):
            raise WriteRefused("this registry is a read-only proxy")
        path, query = routing.split(request.raw_path)
        exchange.path = path
        if path.startswith(chunk_objects.ROOT):
            exchange.kind = "chunk"
            async with self._limits.bodies:
                return await self._chunks.answer(exchange, self._settings.idle_timeout)
        if not path.startswith("/v2"):
            answer = await self._health.answer(exchange, path)
            exchange.kind = "health"
            return answer
        route = routing.parse(path)
        exchange.kind = _KINDS[type(route)]
        exchange.query = routing.query_values(query)
        exchange.asked = Asked(exchange.query.get("ns"), request.headers.get("OCI-Namespace"), exchange.asked.listener)
        return await self._serve(exchange, route)

    async def _serve(self, exchange: Exchange, route: Route) -> web.StreamResponse:
        match route:
            case BlobRoute(name, digest):
                where = self._target(exchange, name)
                limits = self._settings
                async with self._limits.bodies:
                    return await blobs.answer(
                        exchange, self._blobs, where, digest, max_ranges=limits.max_ranges, stall=limits.idle_timeout
                    )
            case ManifestRoute(name, reference):
                where = self._named(exchange, name)
                ranges = self._settings.max_ranges
                return await manifests.answer(exchange, self._manifests, where, reference, max_ranges=ranges)
            case TagsRoute(name):
                return await lists.tags(exchange, self._discovery, self._named(exchange, name), name)
            case ReferrersRoute(name, digest):
                return await referrers.answer(exchange, self._discovery, self._named(exchange, name), digest)
            case CatalogRoute():
                return await lists.catalog(exchange, self._discovery, self._catalog(exchange, route))
            case Ping():
                return exchange.answer(200, lists.JSON, body=b"{}")

    def _target(self, exchange: Exchange, name: str) -> Target | None:
        target = routing.target(name, exchange.asked, self._upstreams)
        exchange.upstream = target.upstream if target else None
        return target

    def _named(self, exchange: Exchange, name: str) -> Target:
        target = self._target(exchange, name)
        if target is None:
            raise UnknownUpstream("the request names no upstream: by ?ns=, OCI-Namespace or the first part of the path")
        return target

    def _catalog(self, exchange: Exchange, route: CatalogRoute) -> SourceHost | None:
        exchange.upstream = host = routing.catalog_host(route, exchange.asked, self._upstreams)
        return host

    def _observe(self, exchange: Exchange) -> None:
        status = exchange.status or _CLIENT_LEFT
        self._metrics.answered(exchange.kind, exchange.request.method, status)
        self._metrics.first_byte(exchange.kind, exchange.waited)
        for tier, n in exchange.tiers.items():
            self._metrics.served(tier, n, exchange.pieces[tier])
        if exchange.cut_by is not None:
            self._metrics.cut(exchange.cut_by)
        _log(exchange, status)


def _log(exchange: Exchange, status: int) -> None:
    """The one line of a request."""
    more: dict[str, object] = {}
    if exchange.error is not None:
        more["error"] = exchange.error
    if exchange.cut_by is not None:
        more["cut_by"] = exchange.cut_by
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or exchange.cut_by == "proxy":
        say = log.warning
    else:
        say = log.debug if exchange.kind == "health" else log.info
    say(
        "request.answered",
        request=exchange.id,
        client=exchange.request.remote,
        method=exchange.request.method,
        path=exchange.path[:_LOGGED],
        upstream=exchange.upstream,
        kind=exchange.kind,
        status=status,
        bytes=sum(exchange.tiers.values()),
        tiers=",".join(exchange.tiers),
        seconds=round(monotonic() - exchange.started, 6),
        **more,
    )
