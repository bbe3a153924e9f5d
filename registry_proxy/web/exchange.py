"""One request on its way to its answer, and what the log line and the metrics will say about it."""

import asyncio
from functools import lru_cache
from time import monotonic

from aiohttp import web

from registry_proxy.access.caller import Caller
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.networks import UNIX
from registry_proxy.plan.routing import Asked
from registry_proxy.web.answer import CLOSED, KEPT, Answer, Lines, Sent, lines

SERVER = "registry-proxy"
_NOTHING = Asked()
_ALWAYS = lines(("Docker-Distribution-Api-Version", "registry/2.0"), ("Server", SERVER))


class ClientGone(ConnectionError):
    """The client went away, or took nothing for too long."""


class Exchange:
    """One request. ``client``: the address that it comes from; None on a Unix socket, where a client may have given its own end any
    name, an address too. ``kind``: one of ``metrics.KINDS``; ``tiers`` and ``pieces``: bytes and pieces of content
    by where they came from.

    ``waited``: seconds to the headers. ``response`` is set from the moment that headers may be on the wire: from then on failing means cutting the connection
    (``cut_by``: "client" or "proxy"). ``believed``: a gate's yes that was at hand; None: none is to be.
    """

    __slots__ = (
        "asked", "believed", "client", "cut_by", "error", "id", "kind", "path", "pieces", "query", "request", "response", "started",
        "status", "tiers", "upstream", "waited",
    )  # fmt: skip

    def __init__(self, request: web.BaseRequest, identity: str, listener: SourceHost | None) -> None:
        peer = request.protocol.peername
        self.request = request
        self.id = identity
        self.client = str(peer[0]) if isinstance(peer, tuple) else None
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
        self.response: Sent | None = None

    @property
    def head(self) -> bool:
        """True if the client wants the headers only."""
        return self.request.method == "HEAD"

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

    def answer(self, status: int, *own: tuple[str, str], body: bytes) -> Answer:
        """An answer that is complete in memory. Raises ValueError for a header that would become two."""
        return self.outlined(status, lines(*own), len(body), body)

    def outlined(self, status: int, own: Lines, length: int | None, body: bytes | None = None) -> Answer:
        """An answer with these headers, and those that every answer has. ``length``, ``body``: as of ``Answer``."""
        namespace = self.asked.ns or self.asked.header
        named = _named(namespace) if namespace and self.upstream else ""
        return Answer(status, f"{own}{_ALWAYS}X-Request-Id: {self.id}\r\n{named}", length, body)

    def count(self, tier: str, n: int) -> None:
        """A piece of ``n`` bytes of content from this tier is on its way to the client."""
        self.tiers[tier] = self.tiers.get(tier, 0) + n
        self.pieces[tier] = self.pieces.get(tier, 0) + 1

    def begin(self, answer: Answer) -> tuple[bytes, Sent]:
        """The first bytes on the wire, and what aiohttp is to have of the answer in the end. From now on, failing means cutting."""
        self.response = KEPT if self.request.keep_alive else CLOSED
        self.status = answer.status
        self.waited = monotonic() - self.started
        return answer.wire(self.request), self.response

    def take_back(self) -> None:
        """Nothing of the answer that was begun is on the wire: what has failed can be told instead."""
        self.response = None
        self.status = 0
        self.tiers.clear()
        self.pieces.clear()

    async def deliver(self, answer: Answer, stall: float) -> Sent:
        """Send an answer that is complete in memory; what aiohttp is to have of it.

        Raises ClientGone, or is cancelled if the client does not take it in ``stall`` seconds.
        """
        transport = self.request.transport
        if transport is None or transport.is_closing():
            raise ClientGone("the client closed the connection")
        data, sent = self.begin(answer)
        transport.write(data)
        if transport.get_write_buffer_size():
            await self._taken(stall)
        return sent

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
        if self.request.transport is not None:
            self.request.transport.abort()


@lru_cache(256)
def _named(namespace: str) -> Lines:
    return lines(("OCI-Namespace", namespace))


def _common_name(request: web.BaseRequest) -> str | None:
    """The common name in the client's certificate; TLS shows a certificate here only if it has verified it."""
    certificate = request.transport.get_extra_info("peercert") if request.transport is not None else None
    names = (pair for part in (certificate or {}).get("subject", ()) for pair in part)
    return next((value for key, value in names if key == "commonName"), None)
