"""GETs through the site's forward proxies, with CVMFS's behaviour: groups, fail-over, low-speed limit, back-off.

``fetch`` streams: it finds a way to the headers of an answer, and a body that breaks burns the way it came by. ``get`` brings a
small object whole and checked: whatever is wrong with a way, its headers, its body or its bytes, the next one is tried, and wrong
bytes are first asked for again past the cache (a poisoned Squid heals that way).
"""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import aiohttp
import structlog
from yarl import URL

from registry_proxy import __version__
from registry_proxy.config import Forwarding
from registry_proxy.errors import Trouble, UpstreamBroken, UpstreamDown, UpstreamUnreachable
from registry_proxy.net.response import Response
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.forward_proxies import DIRECT, Chain, LowSpeed, Rest, Walk, forward_error, parse
from registry_proxy.plan.origins import Origin

_log = structlog.get_logger()

_BUFFER = 256 * 1024
_PAST_CACHES: Final = {"Cache-Control": "no-cache", "Pragma": "no-cache"}

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one way. ``timeout``: seconds to the headers, and of the window in which ``low_speed`` bytes per second must come."""

    timeout: float
    low_speed: float


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole answer. ``way``: the forward proxy it came through, or DIRECT; ``seconds``: from the request to its headers."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    way: str
    seconds: float


class ForwardResponse(Response):
    """A response that must not come too slowly. ``way``: the forward proxy that sends it, or DIRECT; ``broke``: its body failed."""

    def __init__(
        self, response: aiohttp.ClientResponse, url: str, way: str, limits: Limits, seconds: float, clock: Clock
    ) -> None:
        super().__init__(response, url, Origin.of(url), limits.timeout, seconds)
        self.way = way
        self.broke = False
        self._limits = limits
        self._clock = clock

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes; raises UpstreamUnreachable if it is cut, stops or comes too slowly. Only waiting for it counts."""
        speed = LowSpeed(self._limits.low_speed, self._limits.timeout)
        speed.is_slow(self.seconds, 0)  # the wait for the headers counts
        while True:
            began = self._clock()
            patience = speed.patience
            try:
                async with asyncio.timeout(patience):
                    data = await self._response.content.readany()
            except TimeoutError as error:
                raise self._broken(f"sends nothing for {patience:.2g} s") from error
            except (aiohttp.ClientError, OSError) as error:
                raise self._broken(f"broke off: {str(error)[:160] or type(error).__name__}") from error
            if not data:
                return
            if speed.is_slow(self._clock() - began, len(data)):
                raise self._broken(f"sends fewer than {self._limits.low_speed:g} bytes per second")
            yield data

    def _broken(self, how: str) -> UpstreamUnreachable:
        self.broke = True
        return UpstreamUnreachable(f"{self.origin} by {self.way} {how}")


class ForwardProxies:
    """The ways to some origins. Close it with ``aclose`` or ``async with``.

    ``seed``: draws the members that this instance keeps to; ``clock``: seconds, monotonic.
    """

    def __init__(self, settings: Forwarding, seed: bytes | None = None, clock: Clock = time.monotonic) -> None:
        self.chain = Chain(
            parse(settings.groups, settings.fallback), os.urandom(8) if seed is None else seed, settings.reset_after
        )
        self._shard = settings.shard
        self._proxied = Limits(settings.timeout, settings.low_speed)
        self._straight = Limits(settings.timeout_direct, settings.low_speed)
        self._clock = clock
        self._rests: defaultdict[Origin, Rest] = defaultdict(Rest)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Nothing to do: connections are made when they are needed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def states(self) -> dict[str, bool]:
        """Every way in the order of the groups; False for a burnt one."""
        burnt = self.chain.burnt(self._clock())
        return {way: way not in burnt for group in self.chain.groups for way in group}

    def is_resting(self, url: str) -> bool:
        """True if no way led to this URL's origin a moment ago: requests for it fail at once."""
        return self._rests[Origin.of(url)].until > self._clock()

    @asynccontextmanager
    async def fetch(
        self,
        url: str,
        *,
        no_cache: bool = False,
        key: bytes | None = None,
        span: Span | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[ForwardResponse]:
        """The response to a GET by the first way that has one, whatever its status; nothing is followed or decoded.

        ``no_cache``: caches on the way fetch it anew; ``key``: what it is, by which the members of a group share the content;
        ``span``: as a Range. Raises UpstreamDown or UpstreamUnreachable if no way leads there.
        """
        own = {**(headers or {}), **(_PAST_CACHES if no_cache else {})}
        if span is not None:
            own["Range"] = f"bytes={span.start}-{span.stop - 1}"
        response = await self._first(self._set_out(url, key), url, own)
        try:
            yield response
        finally:
            response.close()
            if response.broke:
                self._burn(response.way)

    async def get(
        self,
        url: str,
        check: Callable[[Fetched], Awaitable[None]],
        *,
        limit: int,
        key: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Fetched:
        """A whole answer of at most ``limit`` bytes, of any status; ``check`` raises UpstreamBroken for one with wrong bytes.

        Raises Trouble: what was wrong with the last way tried.
        """
        walk = self._set_out(url, key)
        said: Trouble | None = None
        wrong = False
        while (way := walk.next(self._clock()) or (walk.straight() if wrong else None)) is not None:
            try:
                fetched = await self._checked(way, url, headers or {}, limit, check)
            except UpstreamBroken as error:
                said, wrong = error, True
            except UpstreamUnreachable as error:
                said = error
            else:
                self._arrived(walk, url)
                return fetched
        raise self._lost(url, said)

    # --- one way ---------------------------------------------------------------------------------------------------------

    async def _checked(
        self,
        way: str,
        url: str,
        headers: Mapping[str, str],
        limit: int,
        check: Callable[[Fetched], Awaitable[None]],
    ) -> Fetched:
        async def once(sent: Mapping[str, str]) -> Fetched:
            fetched = await self._whole(way, url, sent, limit)
            await check(fetched)
            return fetched

        try:
            return await once(headers)
        except UpstreamBroken as error:
            _log.warning("forward.wrong_bytes", way=way, url=url, error=str(error))
        return await once({**headers, **_PAST_CACHES})

    async def _whole(self, way: str, url: str, headers: Mapping[str, str], limit: int) -> Fetched:
        response = await self._request(way, url, headers)
        try:
            body = await response.read(limit)
            return Fetched(response.status, response.headers, body, way, response.seconds)
        finally:
            response.close()

    async def _request(self, way: str, url: str, headers: Mapping[str, str]) -> ForwardResponse:
        """The response by one way; raises UpstreamDown and UpstreamUnreachable, also for a forward proxy's own error page."""
        limits = self._straight if way == DIRECT else self._proxied
        began = self._clock()
        try:
            async with asyncio.timeout(limits.timeout):
                answer = await self._open_session().get(
                    URL(url, encoded=True),
                    headers=headers,
                    proxy=None if way == DIRECT else way,
                    allow_redirects=False,
                )
        except aiohttp.ClientConnectorError as error:
            raise UpstreamDown(f"{url} by {way}: no connection: {error.os_error}") from error
        except TimeoutError as error:
            raise UpstreamUnreachable(f"{url} by {way}: no answer within {limits.timeout:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamUnreachable(f"{url} by {way}: {str(error)[:160] or type(error).__name__}") from error
        response = ForwardResponse(answer, url, way, limits, self._clock() - began, self._clock)
        said = forward_error(response.headers) if way != DIRECT else None
        if said is not None:
            response.close()
            raise UpstreamUnreachable(f"{url} by {way}: the forward proxy says {said}")
        return response

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=30),
                headers={"User-Agent": f"registry-proxy/{__version__}", "Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=_BUFFER,
            )
        return self._session

    # --- all ways --------------------------------------------------------------------------------------------------------

    def _set_out(self, url: str, key: bytes | None) -> Walk:
        if self.is_resting(url):
            raise UpstreamDown(f"no way led to {Origin.of(url)} a moment ago")
        return self.chain.walk(key if self._shard else None)

    async def _first(self, walk: Walk, url: str, headers: Mapping[str, str]) -> ForwardResponse:
        said: Trouble | None = None
        while (way := walk.next(self._clock())) is not None:
            try:
                response = await self._request(way, url, headers)
            except UpstreamUnreachable as error:
                said = error
            else:
                self._arrived(walk, url)
                return response
        raise self._lost(url, said)

    def _arrived(self, walk: Walk, url: str) -> None:
        now = self._clock()
        for way in walk.tried[:-1]:
            if way != DIRECT:
                _log.warning("forward.burnt", way=way, instead=walk.tried[-1])
        walk.arrived(now)
        self._rests[Origin.of(url)].succeeded()

    def _burn(self, way: str) -> None:
        _log.warning("forward.burnt", way=way)
        self.chain.burn(way, self._clock())

    def _lost(self, url: str, said: Trouble | None) -> Trouble:
        """No way led there: leave the origin alone for a while. Wrong bytes are an answer: asking again may help."""
        if not isinstance(said, UpstreamBroken):
            self._rests[Origin.of(url)].failed(self._clock())
        return said or UpstreamDown(f"no way leads to {Origin.of(url)}")
