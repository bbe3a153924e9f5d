"""Plain GETs without an account, redirects or forward proxies: for content whose hash is known, or which is signed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from registry_proxy import __version__
from registry_proxy.errors import UpstreamBroken, UpstreamDown, UpstreamUnreachable
from registry_proxy.net.response import Response
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.origins import Origin

_BUFFER = 256 * 1024


class PlainClient:
    """One connection pool. ``timeout``: seconds for a connection, for headers, and between pieces. Use it with ``async with``."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the pool."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=30, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._timeout),
            headers={"User-Agent": f"registry-proxy/{__version__}", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_BUFFER,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def fetch(
        self, url: str, *, no_cache: bool = False, key: bytes | None = None, span: Span | None = None
    ) -> AsyncIterator[Response]:
        """GET a URL; the response once its headers are here. ``no_cache``: past any cache; ``span``: ask for these bytes only.

        ``key`` chooses among forward proxies, of which there are none here. Raises UpstreamDown (no connection),
        UpstreamUnreachable (cut off, or no headers in time) and UpstreamBroken (no HTTP).
        """
        del key
        headers = {"Cache-Control": "no-cache", "Pragma": "no-cache"} if no_cache else {}
        if span is not None:
            headers["Range"] = f"bytes={span.start}-{span.stop - 1}"
        origin = Origin.of(url)
        loop = asyncio.get_running_loop()
        started = loop.time()
        response = await self._get(origin, url, headers)
        try:
            yield Response(response, url, origin, self._timeout, loop.time() - started)
        finally:
            response.close()  # a connection whose body was read to its end has gone back to the pool already

    async def _get(self, origin: Origin, url: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        if self._session is None:
            raise UpstreamDown("the client is closed")
        try:
            async with asyncio.timeout(2 * self._timeout):
                return await self._session.get(URL(url, encoded=True), headers=headers, allow_redirects=False)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise UpstreamDown(f"{origin}: no connection: {error}") from error
        except TimeoutError as error:
            raise UpstreamUnreachable(f"{origin}: no answer within {self._timeout:g} s") from error
        except (aiohttp.ClientResponseError, aiohttp.InvalidURL, ValueError) as error:
            raise UpstreamBroken(f"{origin}: {type(error).__name__}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamUnreachable(f"{origin}: {str(error) or type(error).__name__}") from error
