"""One HTTP exchange at a time, with every wait bounded and no address met that must not be.

One session per upstream and trust: the upstream's own host may be anywhere; what it names (redirects, token realms) may be
public, or private too where the upstream itself is. The address is judged when the socket is made, after all name resolution,
so that no DNS answer gets around it. Behind a forward proxy only addresses written in URLs can be judged.
"""

import asyncio
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
    which may be at a private address only if ``private``."""

    host: str | None
    private: bool = False

    def check(self, found: Reach | None) -> None:
        """Raise AddressRefused if an address of this reach must not be met."""
        if self.host is None and (found is Reach.FORBIDDEN or (found is Reach.PRIVATE and not self.private)):
            raise AddressRefused(f"an upstream may not send us to a {found.value} address")


class Client:
    """HTTP with one upstream and with what it names. Close it with ``aclose`` or ``async with``."""

    def __init__(self, settings: Upstream) -> None:
        self._settings = settings
        self._hosts = {Origin.of(url).host for url in settings.urls}
        self._private_hosts: set[str] = set()
        self._tls: ssl.SSLContext | bool = True
        if settings.ca is not None:
            self._tls = ssl.create_default_context()
            self._tls.load_verify_locations(cafile=settings.ca)
        self._sessions: dict[_Trust, aiohttp.ClientSession] = {}

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
        trust = self._trust(origin, by, patterns)
        started = time.monotonic()
        response = await self._request(trust, origin, method, url, headers, form)
        try:
            yield Response(response, url, origin, self._settings.timeouts.idle, time.monotonic() - started)
        finally:
            response.close()  # a connection whose body was read to its end has gone back to the pool already

    async def _request(
        self,
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
                return await self._session(trust).request(
                    method,
                    URL(url, encoded=True),  # a signed URL goes out as it came, or its signature breaks
                    headers=headers,
                    data=form,
                    allow_redirects=False,
                    ssl=self._tls,
                    proxy=self._settings.forward_proxy,
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
        except aiohttp.ClientResponseError as error:
            raise UpstreamBroken(f"{origin}: not HTTP as we know it: {error.message[:160]}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamUnreachable(f"{origin}: {str(error) or type(error).__name__}") from error

    def _trust(self, origin: Origin, by: Origin, patterns: tuple[str, ...]) -> _Trust:
        if origin.host in self._hosts:
            return _Trust(origin.host)
        trust = _Trust(None, by.host in self._private_hosts or matches(origin.host, patterns))
        try:
            trust.check(literal_reach(origin.host))
        except AddressRefused as error:
            raise UpstreamBroken(f"{by} names {origin}: {error}") from None
        return trust

    def _session(self, trust: _Trust) -> aiohttp.ClientSession:
        session = self._sessions.get(trust)
        if session is None:
            session = self._sessions[trust] = self._open_session(trust)
        return session

    def _open_session(self, trust: _Trust) -> aiohttp.ClientSession:
        timeouts = self._settings.timeouts
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ttl_dns_cache=30, keepalive_timeout=30, socket_factory=partial(self._make_socket, trust)
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

    def _make_socket(self, trust: _Trust, info: AddrInfoType) -> socket.socket:
        """A socket for an address that may be met; behind a forward proxy, the address is that one's."""
        if self._settings.forward_proxy is None:
            found = reach(str(info[4][0]))
            trust.check(found)
            if trust.host is not None and found is not Reach.PUBLIC:
                self._private_hosts.add(trust.host)
        return socket.socket(info[0], info[1], info[2])
