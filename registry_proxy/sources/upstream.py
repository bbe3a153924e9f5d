"""Blobs from an upstream, with ranges where it has them and whole where it has not.

Only requests are repeated here, never bodies: a body that breaks raises, and the flight asks for the rest of it.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from registry_proxy.errors import BlobUnknown, SizeContested, UpstreamBroken
from registry_proxy.net.response import Response
from registry_proxy.net.upstream import Ask, UpstreamClient
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.content_range import parse_content_range
from registry_proxy.sources.base import BlobPlace, Urgency
from registry_proxy.sources.delivery import UpstreamDelivery
from registry_proxy.sources.rangeless import Rangeless, RangelessMemory
from registry_proxy.telemetry.metrics import Metrics

_NO_RANGES = frozenset({400, 501})
"""What some registries say to a Range instead of ignoring it (giuseppe/crfs-plugin#1)."""

_SMALL = 128 * 1024
"""Bytes: a blob no larger, as configs are, does not wait behind layers."""


class UpstreamSource:
    """All upstreams as one source; see ``sources.base.Source``."""

    name = "upstream"

    def __init__(self, clients: Mapping[SourceHost, UpstreamClient], memory: RangelessMemory, metrics: Metrics) -> None:
        self._clients = clients
        self._rangeless = Rangeless(memory)
        self._metrics = metrics

    def rangeless(self, upstream: SourceHost) -> bool:
        """True if this upstream is known to send whole blobs only."""
        return self._rangeless.known(upstream)

    @asynccontextmanager
    async def open(
        self, place: BlobPlace, span: Span | None, size: int | None, urgency: Urgency
    ) -> AsyncIterator[UpstreamDelivery]:
        """Ask for ``span`` (None: everything) of a blob of ``size`` bytes (None: not known).

        Raises on entry: BlobUnknown, Denied, or Trouble in any form; the delivery's own iteration raises Trouble.
        """
        if not span or self.rangeless(place.upstream):
            span = None
        slot = None if size is not None and size <= _SMALL else urgency
        async with AsyncExitStack() as stack:
            response = await self._ask(place, span, slot, stack)
            if span is not None and response.status in _NO_RANGES:
                self._rangeless.ignored_range(place.upstream, response.origin)
                await stack.aclose()
                span = None
                response = await self._ask(place, None, slot, stack)
            yield self._deliver(place, span, size, response)

    def doubt(self, digest: Digest) -> None:
        """Nothing to do: an upstream is asked anew anyway."""

    async def _ask(
        self, place: BlobPlace, span: Span | None, urgency: Urgency | None, stack: AsyncExitStack
    ) -> Response:
        ask = Ask(
            path=f"/v2/{place.repository}/blobs/{place.digest}",
            missing=BlobUnknown,
            repository=place.repository,
            headers={"Range": f"bytes={span.start}-{span.stop - 1}"} if span else {},
            accept=frozenset({200, 206, 416}) | _NO_RANGES if span else frozenset({200}),
            blob=True,
            urgency=urgency,
        )
        return await stack.enter_async_context(self._clients[place.upstream].ask(ask))

    def _deliver(self, place: BlobPlace, span: Span | None, size: int | None, response: Response) -> UpstreamDelivery:
        response.refuse_encoding()
        received = partial(self._metrics.fetched, place.upstream)
        self._rangeless.came(place.upstream, response.origin)
        if response.status == 206 and span is not None:
            span, total = _check_part(response, span, size)
            self._rangeless.honoured_range(place.upstream, response.origin)
            return UpstreamDelivery(response, span, total, ranged=True, received=received)
        if response.status == 416:
            raise SizeContested(f"{response.origin} has no {span} of a blob of {size} bytes")
        if response.status != 200:
            raise UpstreamBroken(f"{response.origin} answers {response.status} to {span} of a blob of {size} bytes")
        whole = Span(0, _check_whole(response, size))
        if span is not None and len(span) < len(whole):
            self._rangeless.ignored_range(place.upstream, response.origin)
        return UpstreamDelivery(response, whole, response.length, ranged=False, received=received)


def _check_part(response: Response, span: Span, size: int | None) -> tuple[Span, int]:
    """The span and total of a 206; raises UpstreamBroken unless they are what was asked for (RFC 9110 §15.3.7)."""
    said = response.headers.get("Content-Range", "")
    found = parse_content_range(said)
    if found is None or response.media_type.startswith("multipart/"):
        raise UpstreamBroken(f"{response.origin} answers 206 with Content-Range {said[:80]!r}")
    wanted = Span(span.start, min(span.stop, found.total)) if span.start <= found.total else span
    if size is not None and found.total != size:
        raise SizeContested(f"{response.origin} sends {said!r} of a blob of {size} bytes")
    if found.span != wanted:
        raise UpstreamBroken(f"{response.origin} sends {said!r} when asked for {span} of {size} bytes")
    if response.length not in {None, len(wanted)}:
        raise UpstreamBroken(f"{response.origin} sends {response.length} bytes as {said!r}")
    return wanted, found.total


def _check_whole(response: Response, size: int | None) -> int:
    """Bytes of the whole blob that a 200 brings; raises UpstreamBroken if it says something else than we know."""
    total = size if response.length is None else response.length
    if total is None:
        raise UpstreamBroken(f"{response.origin} does not say how long a blob is")
    if size is None and response.media_type == "text/html":
        raise UpstreamBroken(f"{response.origin} sends a web page instead of a blob")
    if size is not None and total != size:
        raise SizeContested(f"{response.origin} sends {total} bytes as a blob of {size}")
    return total
