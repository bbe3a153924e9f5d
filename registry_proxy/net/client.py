"""One HTTP exchange at a time, with every wait bounded and no address met that must not be.

One session per upstream and trust: the upstream's own host may be anywhere but at a link-local or metadata address; what it names
(redirects, token realms) may be public, or private too where the upstream itself is private and never was anything else, or where the
configuration lists the host. The address is judged when the socket for it is made, after all name resolution, so that the address
that was judged is the one that is dialled, whatever DNS says next. Behind a forward proxy only addresses written in URLs can be judged; several of them are used
as ``plan.forward_proxies`` says.
"""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import aiohttp
from aiohappyeyeballs import AddrInfoType
from yarl import URL

from registry_proxy import __version__
from registry_proxy.config import Upstream
from registry_proxy.errors import UpstreamBroken, UpstreamDown, UpstreamUnreachable
from registry_proxy.net.response import Response
from registry_proxy.plan.forward_proxies import DIRECT, Chain, forward_error, parse
from registry_proxy.plan.origins import Origin, Reach, literal_reach, matches, reach

_MAX_FIELD = 64 * 1024
"""Bytes of a header: signed URLs of object stores exceed aiohttp's 8 KiB."""

_BUFFER = 256 * 1024
"""Bytes buffered per body; aiohttp stops reading the socket at twice that."""


class AddressRefused(OSError):
    """An upstream sent us to an address where it has no business."""


@dataclass(frozen=True)
class _Trust:
    """How far a host is trusted. ``host``: the upstream's own host, which may be anywhere; None for what an upstream names,
    which may be at a private address only if ``private``. ``clear``: what a client showed goes there without encryption."""

    host: str | None
    private: bool = False
    clear: bool = False

    def check(self, found: Reach | None) -> None:
        """Raise AddressRefused if an address of this reach must not be met."""
        if self.clear and found is Reach.PUBLIC:
            raise AddressRefused("passwords and tokens go to no public address without https")
        if self.host is not None:
            if found is Reach.FORBIDDEN and literal_reach(self.host) is not Reach.FORBIDDEN:
                raise AddressRefused(f"{self.host} must not resolve to a {found.value} address")
        elif found is Reach.FORBIDDEN or (found is Reach.PRIVATE and not self.private):
            raise AddressRefused(f"an upstream may not send us to a {found.value} address")


class Client:
    """HTTP with one upstream and with what it names. Close it with ``aclose`` or ``async with``. ``tls``: as aiohttp has ``ssl``."""

    def __init__(self, settings: Upstream, tls: ssl.SSLContext | bool = True) -> None:
        self._settings = settings
        self._hosts = {Origin.of(url).host for url in settings.urls}
        self._met: dict[str, set[Reach]] = {}
        self._tls = tls
        self._chain = Chain(parse(settings.forward_proxy or DIRECT), os.urandom(8))
        self._sessions: dict[tuple[_Trust, bool], aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Self:
        """Nothing to do: sessions are opened when they are needed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        while self._sessions:
            await self._sessions.popitem()[1].close()

    @asynccontextmanager
    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        by: Origin,
        form: Mapping[str, str] | None = None,
        patterns: tuple[str, ...] = (),
    ) -> AsyncIterator[Response]:
        """Send a request; the response once its headers are here. Nothing is followed, retried or decoded.

        ``by``: the upstream that named this URL; ``patterns``: hosts that may be at a private address all the same. Raises
        UpstreamDown (no connection), UpstreamUnreachable (cut off, or no headers in time) and UpstreamBroken (an address that
        must not be met, or no HTTP).
        """
        origin = Origin.of(url)
        trust = self._trust(origin, by, patterns, clear=self._shows_in_clear(origin, headers))
        started = time.monotonic()
        way, response = await self._first(trust, origin, method, url, headers, form)
        try:
            yield Response(response, url, origin, self._settings.timeouts.idle, time.monotonic() - started)
        except UpstreamUnreachable:
            self._chain.burn(way, time.monotonic())
            raise
        finally:
            response.close()  # a connection whose body was read to its end has gone back to the pool already

    async def _first(
        self,
        trust: _Trust,
        origin: Origin,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        form: Mapping[str, str] | None,
    ) -> tuple[str, aiohttp.ClientResponse]:
        """The response by the first forward proxy that has one, or straight; raises what the last one said."""
        walk, said = self._chain.walk(), UpstreamUnreachable(f"{origin}: no way leads there")
        while (way := walk.next(time.monotonic())) is not None:
            try:
                response = await self._request(way, trust, origin, method, url, headers, form)
            except UpstreamUnreachable as error:
                said = error
                continue
            problem = forward_error(response.headers) if way != DIRECT else None
            if problem is None:
                walk.arrived(time.monotonic())
                return way, response
            response.close()
            said = UpstreamUnreachable(f"{origin}: the forward proxy {way} says {problem}")
        raise said

    async def _request(
        self,
        way: str,
        trust: _Trust,
        origin: Origin,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        form: Mapping[str, str] | None,
    ) -> aiohttp.ClientResponse:
        timeouts = self._settings.timeouts
        try:
            async with asyncio.timeout(timeouts.connect + timeouts.header):
                return await self._session(trust, way).request(
                    method,
                    URL(url, encoded=True),  # a signed URL goes out as it came, or its signature breaks
                    headers=headers,
                    data=form,
                    allow_redirects=False,
                    ssl=self._tls,
                    proxy=None if way == DIRECT else way,
                )
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, AddressRefused):
                raise UpstreamBroken(f"{origin}: {error.os_error}") from error
            raise UpstreamDown(f"{origin}: no connection: {error.os_error}") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise UpstreamDown(f"{origin}: no connection within {timeouts.connect:g} s") from error
        except TimeoutError as error:
            raise UpstreamUnreachable(f"{origin}: no answer within {timeouts.header:g} s") from error
        except (aiohttp.InvalidURL, ValueError) as error:
            raise UpstreamBroken(f"{origin}: {type(error).__name__}") from error
        except aiohttp.ClientHttpProxyError as error:
            raise UpstreamUnreachable(f"{origin}: the forward proxy {way} answers {error.status} to CONNECT") from error
        except aiohttp.ClientResponseError as error:
            raise UpstreamBroken(f"{origin}: not HTTP as we know it: {error.message[:160]}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamUnreachable(f"{origin}: {str(error) or type(error).__name__}") from error

    def _shows_in_clear(self, origin: Origin, headers: Mapping[str, str] | None) -> bool:
        theirs = self._settings.access == "pass-through" and headers is not None and "Authorization" in headers
        return theirs and origin.scheme == "http"

    def _trust(self, origin: Origin, by: Origin, patterns: tuple[str, ...], *, clear: bool = False) -> _Trust:
        if origin.host in self._hosts:
            return _Trust(origin.host, clear=clear)
        private = self._met.get(by.host) == {Reach.PRIVATE}  # an answer of DNS that changes makes no upstream private
        trust = _Trust(None, private or matches(origin.host, patterns), clear)
        try:
            trust.check(literal_reach(origin.host))
        except AddressRefused as error:
            raise UpstreamBroken(f"{by} names {origin}: {error}") from None
        return trust

    def _session(self, trust: _Trust, way: str) -> aiohttp.ClientSession:
        key = (trust, way == DIRECT)
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = self._open_session(*key)
        return session

    def _open_session(self, trust: _Trust, direct: bool) -> aiohttp.ClientSession:
        timeouts = self._settings.timeouts
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                ttl_dns_cache=30,
                keepalive_timeout=30,
                socket_factory=partial(self._make_socket, trust, direct),
            ),
            timeout=aiohttp.ClientTimeout(total=None, connect=timeouts.connect),
            headers={"User-Agent": f"registry-proxy/{__version__}", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_BUFFER,
            max_line_size=_MAX_FIELD,
            max_field_size=_MAX_FIELD,
        )

    def _make_socket(self, trust: _Trust, direct: bool, info: AddrInfoType) -> socket.socket:
        """A socket for an address that may be met; behind a forward proxy, the address is that one's."""
        if direct:
            found = reach(str(info[4][0]))
            trust.check(found)
            if trust.host is not None:
                self._met.setdefault(trust.host, set()).add(found)
        return socket.socket(info[0], info[1], info[2])
