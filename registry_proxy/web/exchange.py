"""One request on its way to its answer, and what the log line and the metrics will say about it."""

import asyncio
from time import monotonic

from aiohttp import web

from registry_proxy.access.caller import Caller
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.networks import UNIX
from registry_proxy.plan.routing import Asked
from registry_proxy.web.answer import CLOSED, KEPT, Answer

SERVER = "registry-proxy"
_NOTHING = Asked()
_SERVER = ("Server", SERVER)
_API = ("Docker-Distribution-Api-Version", "registry/2.0")


class ClientGone(ConnectionError):
    """The client went away, or took nothing for too long."""


class Exchange:
    """One request. ``kind``: one of ``metrics.KINDS``; ``tiers`` and ``pieces``: bytes and pieces of content
    by where they came from.

    ``waited``: seconds to the headers. ``response`` is set from the moment that headers may be on the wire: from then on failing means cutting the connection
    (``cut_by``: "client" or "proxy"). ``believed``: a gate's yes that was at hand; None: none is to be.
    """

    __slots__ = (
        "asked", "believed", "cut_by", "error", "id", "kind", "path", "pieces", "query", "request", "response", "started",
        "status", "tiers", "upstream", "waited",
    )  # fmt: skip

    def __init__(self, request: web.BaseRequest, identity: str, listener: SourceHost | None) -> None:
        self.request = request
        self.id = identity
        self.started = monotonic()
        self.believed: bool | None = False
        self.waited = 0.0
        self.kind = "other"
        self.path = request.raw_path
        self.query: dict[str, str] = {}
        self.asked = _NOTHING if listener is None else Asked(listener=listener)
        self.upstream: str | None = None
        self.status = 0
        self.tiers: dict[str, int] = {}
        self.pieces: dict[str, int] = {}
        self.error: str | None = None
        self.cut_by: str | None = None
        self.response: web.StreamResponse | None = None

    @property
    def head(self) -> bool:
        """True if the client wants the headers only."""
        return self.request.method == "HEAD"

    @property
    def client(self) -> str | None:
        """The address that it comes from; None on a Unix socket, where a client may have given its own end any name, an address too."""
        peer = self.request.protocol.peername
        return str(peer[0]) if isinstance(peer, tuple) else None

    @property
    def caller(self) -> Caller:
        """Who asks."""
        return Caller(self.header("Authorization"), self.client or UNIX, _common_name(self.request))

    def header(self, name: str) -> str | None:
        """A header of the request; one that comes in several lines is one list (RFC 9110 §5.3)."""
        values = self.request.headers.getall(name, None)
        if values is None:
            return None
        return values[0] if len(values) == 1 else ", ".join(values)

    def headers(self, *own: tuple[str, str]) -> tuple[tuple[str, str], ...]:
        """The headers of an answer: these, and those that every answer has."""
        namespace = self.asked.ns or self.asked.header
        if namespace and self.upstream:
            return (*own, _API, ("X-Request-Id", self.id), _SERVER, ("OCI-Namespace", namespace))
        return (*own, _API, ("X-Request-Id", self.id), _SERVER)

    def answer(self, status: int, *own: tuple[str, str], body: bytes | None = None) -> Answer:
        """An answer that is complete in memory."""
        return Answer(status, self.headers(*own), body)

    def count(self, tier: str, n: int) -> None:
        """A piece of ``n`` bytes of content from this tier is on its way to the client."""
        self.tiers[tier] = self.tiers.get(tier, 0) + n
        self.pieces[tier] = self.pieces.get(tier, 0) + 1

    async def prepare(self, response: web.StreamResponse) -> None:
        """Send the headers, or have them ready to go with the body; raises ClientGone."""
        self.response = response
        self.status = response.status
        self.waited = monotonic() - self.started
        try:
            await response.prepare(self.request)
        except ConnectionError as error:
            raise ClientGone("the client closed the connection") from error

    async def deliver(self, answer: Answer, stall: float) -> web.StreamResponse:
        """Send an answer that is complete in memory; what aiohttp is to have of it.

        Raises ClientGone, or is cancelled if the client does not take it in ``stall`` seconds.
        """
        request = self.request
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ClientGone("the client closed the connection")
        data = answer.wire(request)
        self.response = KEPT if request.keep_alive else CLOSED
        self.status = answer.status
        self.waited = monotonic() - self.started
        transport.write(data)
        if transport.get_write_buffer_size():
            await self._taken(stall)
        return self.response

    async def _taken(self, stall: float) -> None:
        guard = asyncio.get_running_loop().call_later(stall, self.abort)
        try:
            await self.request.writer.drain()
        except ConnectionError as error:
            raise ClientGone("the client took no answer") from error
        finally:
            guard.cancel()

    def abort(self) -> None:
        """End an answer before its promised length, so that the client sees a failure and not an end."""
        if self.response is not None:
            self.response.force_close()
        if self.request.transport is not None:
            self.request.transport.abort()


def _common_name(request: web.BaseRequest) -> str | None:
    """The common name in the client's certificate; TLS shows a certificate here only if it has verified it."""
    certificate = request.transport.get_extra_info("peercert") if request.transport is not None else None
    names = (pair for part in (certificate or {}).get("subject", ()) for pair in part)
    return next((value for key, value in names if key == "commonName"), None)
