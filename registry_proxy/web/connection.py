"""One client connection: aiohttp's, with room for long headers, deadlines for slow ones, and OCI bodies for what is not HTTP."""

import asyncio
from http import HTTPStatus

import structlog
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from registry_proxy.config import Server as Settings
from registry_proxy.web.exchange import SERVER
from registry_proxy.web.failures import oci_body

log = structlog.get_logger()

MAX_HEADERS = 100
"""Headers in a request; containerd sends nine."""

_LINGER = 2.0
"""Seconds in which the body of a refused request is read and dropped, so that the client gets to see its answer."""


class Connection(web.RequestHandler):
    """One client connection. A first request must come within ``header_timeout``, each next one within ``idle_timeout``."""

    def __init__(self, server: web.Server, settings: Settings) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=settings.idle_timeout,
            access_log=None,  # type: ignore[arg-type]
            max_line_size=settings.max_url,
            max_field_size=settings.max_header,  # containers/storage asks for 1,024 ranges in some 20 KB (2026-06)
            max_headers=MAX_HEADERS,
            lingering_time=_LINGER,
            auto_decompress=False,
        )
        self._header_timeout = settings.header_timeout
        self._max_url = settings.max_url
        self._silent: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self._silent = asyncio.get_running_loop().call_later(self._header_timeout, self._close_if_silent)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone."""
        if self._silent is not None:
            self._silent.cancel()
        super().connection_lost(exc)

    def _close_if_silent(self) -> None:
        if not self._request_count:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is not HTTP: a TLS hello on a plain port, a header beyond all bounds. The connection ends with it."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("request.broke", client=request.remote, exc_info=exc)
        else:
            log.info("request.unreadable", client=request.remote, error=f"{type(exc).__name__}: {message}")
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on the wire already")
        status, why = self._too_long(exc) or (status, "the request is not readable HTTP")
        body = oci_body("UNSUPPORTED", why)
        response = web.Response(
            status=status, body=body, headers={"Content-Type": "application/json", "Server": SERVER}
        )
        response.force_close()
        return response

    def _too_long(self, error: BaseException | None) -> tuple[int, str] | None:
        """The status and the words for a request beyond a limit (RFC 9110 §15.5.15, RFC 6585 §5), or None if it is another mistake.

        aiohttp (3.14) has one error for the URL and for headers; the limit it names tells them apart.
        """
        if isinstance(error, LineTooLong):
            if error.args[1] == self._max_url:
                return HTTPStatus.REQUEST_URI_TOO_LONG, f"a URL may have {self._max_url} bytes"
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a header may have {error.args[1]} bytes"
        if isinstance(error, BadHttpMessage) and error.message == "Too many headers received":
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a request may have {MAX_HEADERS} headers"
        return None
