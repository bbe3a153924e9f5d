"""The edge of every request: dispatch, failures, one log line, metrics. What is not even HTTP ends in ``connection``.

aiohttp's application, router and middlewares are not used: paths are parsed by ``plan.routing``, which also keeps anything
malformed away from the rest, for a third of the cost.
"""

import asyncio
import itertools
import logging
import secrets
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from time import monotonic
from typing import Final

import structlog
from aiohttp import web

from registry_proxy.access.gate import Gate, Subject
from registry_proxy.access.guard import Guard, Realms
from registry_proxy.config import Config
from registry_proxy.config import Server as Settings
from registry_proxy.errors import (
    BadRequest,
    Denied,
    NoSuchEndpoint,
    RegistryProxyError,
    StoreUnusable,
    UnknownUpstream,
    WriteRefused,
)
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
from registry_proxy.sources.base import BlobPlace
from registry_proxy.telemetry import logs
from registry_proxy.telemetry.logs import REQUEST
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.web import blobs, challenges, failures, lists, manifests, referrers
from registry_proxy.web.answer import CLOSED, Answer, Reply, Sent
from registry_proxy.web.body import BodyShort
from registry_proxy.web.chunks import Chunks
from registry_proxy.web.exchange import ClientGone, Exchange
from registry_proxy.web.health import Health
from registry_proxy.web.heart import Blobs, Discovery, Manifests
from registry_proxy.web.limits import Limits

log = structlog.get_logger()

_LOGGED = 512
"""Characters of a path in a log line; a repository name and a digest need 400."""

_KNOWN: Final = 4096
"""Paths whose meaning is kept."""

_LONGEST_KNOWN: Final = 1024
"""Characters of such a path with its query: nobody fills memory with long ones that mean the same."""

_CLIENT_LEFT = 499
"""For the log and the metrics: the client left before there was an answer (nginx's number; never on the wire)."""

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}

_KINDS: dict[type[Route], str] = {
    Ping: "ping",
    ManifestRoute: "manifest",
    BlobRoute: "blob",
    TagsRoute: "tags",
    ReferrersRoute: "referrers",
    CatalogRoute: "catalog",
}


@dataclass(frozen=True, slots=True)
class _Known:
    """What a path means. ``told``: what an exchange has of it: path, kind, query, what was asked, upstream; ``place``: of a blob;
    ``gate``: of a guarded upstream."""

    told: tuple[str, str, dict[str, str], Asked, str | None]
    route: BlobRoute | ManifestRoute
    target: Target | None
    place: BlobPlace | None
    gate: Gate | None


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
        guard: Guard,
        realms: Realms,
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
        self._guard = guard
        self._realms = realms
        self._known: dict[tuple[str, str | None, SourceHost | None], _Known] = {}
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
        """Hold these timeouts and limits from the next request on; what paths mean may have changed too."""
        self._settings = settings
        self._known.clear()

    async def drained(self, seconds: float) -> None:
        """Wait until no request is being answered, but no longer than this."""
        self._idle.clear()
        if self.active:
            try:
                await asyncio.wait_for(self._idle.wait(), seconds)
            except TimeoutError:
                log.warning("server.drain_ended", active=self.active, seconds=seconds)

    async def _answered(self, exchange: Exchange) -> Sent:
        try:
            reply = await self._attempt(exchange)
            if isinstance(reply, Answer):
                return await exchange.deliver(reply, self._settings.idle_timeout)
        except ClientGone as error:
            return self._cut(exchange, "client", error)
        except asyncio.CancelledError:
            exchange.cut_by = "client" if exchange.request.transport is None else "proxy"
            raise
        return reply

    async def _attempt(self, exchange: Exchange) -> Reply:
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

    def _failed(self, exchange: Exchange, error: Exception, told: RegistryProxyError) -> Reply:
        if exchange.response is not None:
            return self._cut(exchange, "proxy", error)
        exchange.error = f"{type(error).__name__}: {error}"
        return failures.response(exchange, told)

    def _cut(self, exchange: Exchange, by: str, error: Exception) -> Sent:
        exchange.cut_by = by
        exchange.error = f"{type(error).__name__}: {error}"
        exchange.abort()
        return exchange.response or CLOSED

    async def _dispatch(self, exchange: Exchange) -> Reply:
        request = exchange.request
        if wait := self._limits.turn(exchange.client):
            await asyncio.sleep(wait)
        if request.method not in ("GET", "HEAD"):
            raise WriteRefused("this registry is a read-only proxy")
        if request.version.major != 1:  # aiohttp reads a line without a version as HTTP/0.9, and one that claims 2.0
            raise BadRequest("HTTP/1.1 and HTTP/1.0 are spoken here")
        known = self._known.get((request.raw_path, request.headers.get("OCI-Namespace"), exchange.asked.listener))
        if known is not None:
            exchange.path, exchange.kind, exchange.query, exchange.asked, exchange.upstream = known.told
            hit = self._hit(exchange, known) if request.method == "GET" else None
            if hit is not None:
                return hit
            return await self._serve(exchange, known.route, known.target)
        path, query = routing.split(request.raw_path)
        exchange.path = path
        if path.startswith(chunk_objects.ROOT):
            exchange.kind = "chunk"
            async with self._limits.bodies:
                return await self._chunks.answer(exchange, self._settings.idle_timeout)
        if path.startswith(challenges.TOKENS):
            exchange.kind = "token"
            return await self._token(exchange, path.removeprefix(challenges.TOKENS), query)
        if not path.startswith("/v2"):
            answer = await self._health.answer(exchange, path)
            exchange.kind = "health"
            return answer
        route = routing.parse(path)
        exchange.kind = _KINDS[type(route)]
        exchange.query = routing.query_values(query)
        exchange.asked = Asked(exchange.query.get("ns"), request.headers.get("OCI-Namespace"), exchange.asked.listener)
        target = self._target(exchange, route.name) if isinstance(route, BlobRoute | ManifestRoute) else None
        self._learn(exchange, route, target)
        return await self._serve(exchange, route, target)

    def _hit(self, exchange: Exchange, known: "_Known") -> Answer | None:
        """The answer to what is asked for again and again, if nothing has to be waited for: most requests end here."""
        if known.gate is not None and not _at_hand(exchange, known, known.gate):
            return None
        if known.place is not None:
            blob = self._blobs.opened(known.place)
            return blobs.hit(exchange, blob, self._settings.max_ranges) if blob is not None else None
        if (
            known.target is None
            or not isinstance(known.route, ManifestRoute)
            or "Cache-Control" in exchange.request.headers
        ):
            return None
        reference = known.route.reference
        served = self._manifests.at_hand(known.target.upstream, known.target.repository, reference)
        return manifests.hit(exchange, served, reference, self._settings.max_ranges) if served is not None else None

    def _learn(self, exchange: Exchange, route: Route, target: Target | None) -> None:
        """Keep what the path of a blob or a manifest means: it is asked for again and again."""
        if not isinstance(route, BlobRoute | ManifestRoute) or len(exchange.request.raw_path) > _LONGEST_KNOWN:
            return
        if len(self._known) >= _KNOWN:
            self._known.clear()
        told = (exchange.path, exchange.kind, exchange.query, exchange.asked, exchange.upstream)
        key = exchange.request.raw_path, exchange.asked.header, exchange.asked.listener
        place = None
        if isinstance(route, BlobRoute) and target is not None and not target.guessed:
            place = BlobPlace(target.upstream, target.repository, route.digest)
        gate = self._guard.get(target.upstream) if target is not None else None
        self._known[key] = _Known(told, route, target, place, gate)

    async def _serve(self, exchange: Exchange, route: Route, where: Target | None) -> Reply:
        """The answer. Where a yes at hand was believed and something was refused all the same, the gate is asked once more."""
        try:
            return await self._serve_once(exchange, route, where)
        except Denied:
            if not exchange.believed or exchange.response is not None:
                raise
        exchange.believed = None
        return await self._serve_once(exchange, route, where)

    async def _serve_once(self, exchange: Exchange, route: Route, where: Target | None) -> Reply:
        match route:
            case BlobRoute(_, digest):
                limits = self._settings
                async with self._limits.bodies:
                    return await blobs.answer(
                        exchange,
                        self._blobs,
                        where,
                        digest,
                        admit=partial(self._admit, exchange),
                        max_ranges=limits.max_ranges,
                        stall=limits.idle_timeout,
                    )
            case ManifestRoute(_, reference):
                where = _named(where)
                await self._admit(exchange, where.upstream, Subject(where.repository, manifest=reference))
                ranges = self._settings.max_ranges
                return await manifests.answer(exchange, self._manifests, where, reference, max_ranges=ranges)
            case TagsRoute(name):
                where = _named(self._target(exchange, name))
                await self._admit(exchange, where.upstream, Subject(where.repository))
                return await lists.tags(exchange, self._discovery, where, name)
            case ReferrersRoute(name, digest):
                where = _named(self._target(exchange, name))
                await self._admit(exchange, where.upstream, Subject(where.repository, manifest=digest))
                return await referrers.answer(exchange, self._discovery, where, digest)
            case CatalogRoute():
                host = self._catalog(exchange, route)
                await self._admit(exchange, host, Subject(catalog=True))
                return await lists.catalog(exchange, self._discovery, host)
            case Ping():
                exchange.upstream = host = routing.upstream(exchange.asked, self._upstreams)
                await self._admit(exchange, host, Subject())
                return exchange.answer(200, lists.JSON, body=b"{}")

    async def _token(self, exchange: Exchange, host: str, query: str) -> Answer:
        """The answer of a token realm; where clients get tokens for no upstream, nothing is."""
        exchange.upstream = upstream = routing.find(host, self._upstreams)
        realm = self._realms.get(upstream) if upstream is not None else None
        if realm is None:
            raise NoSuchEndpoint(f"no tokens for {host[:_LOGGED]!r} are given out here")
        body = await realm.token(exchange.caller, query)
        return exchange.answer(200, lists.JSON, ("Cache-Control", "no-store"), body=body)

    async def _admit(self, exchange: Exchange, upstream: SourceHost | None, subject: Subject) -> None:
        """Return if the client may read this; raises what ``Gate.admit`` raises."""
        gate = self._guard.get(upstream) if upstream is not None else None
        if gate is None:
            return
        if exchange.believed is not None and not subject.is_list and gate.at_hand(exchange.caller, subject.repository):
            exchange.believed = True
        else:
            await gate.admit(exchange.caller, subject)

    def _target(self, exchange: Exchange, name: str) -> Target | None:
        target = routing.target(name, exchange.asked, self._upstreams)
        exchange.upstream = target.upstream if target else None
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


def _at_hand(exchange: Exchange, known: _Known, gate: Gate) -> bool:
    return known.target is not None and gate.at_hand(exchange.caller, known.target.repository)


def _named(target: Target | None) -> Target:
    if target is None:
        raise UnknownUpstream("the request names no upstream: by ?ns=, OCI-Namespace or the first part of the path")
    return target


def _log(exchange: Exchange, status: int) -> None:
    """The one line of a request."""
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or exchange.cut_by == "proxy":
        level = "warning"
    else:
        level = "debug" if exchange.kind == "health" else "info"
    write = logs.request_line()
    if write is not None and not logs.says(_LEVELS[level]):
        return
    event: dict[str, object] = {
        "request": exchange.id,
        "client": exchange.client,
        "method": exchange.request.method,
        "path": exchange.path[:_LOGGED],
        "upstream": exchange.upstream,
        "kind": exchange.kind,
        "status": status,
        "bytes": sum(exchange.tiers.values()),
        "tiers": ",".join(exchange.tiers),
        "seconds": round(monotonic() - exchange.started, 6),
    }
    if exchange.error is not None:
        event["error"] = exchange.error
    if exchange.cut_by is not None:
        event["cut_by"] = exchange.cut_by
    if write is None:
        getattr(log, level)("request.answered", **event)
    else:
        event["event"], event["level"] = "request.answered", level
        write(event)
