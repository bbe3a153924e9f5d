"""One exchange with one server: the interface to HTTP, and a body on its way into a sink."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from registry_proxy.errors import UpstreamBroken, UpstreamBusy, UpstreamFailed
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.content_range import parse_content_range
from registry_proxy.sources.cvmfs.workers import Workers

_BATCH = 256 * 1024
"""Bytes handed to a thread at once: the hop costs less than hashing them."""

_LONGEST_BUSY = 60.0


class Answer(Protocol):
    """A response whose headers are here and whose body is still to come."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in any case."""

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, not decoded; raises Trouble if it is cut or comes too slowly."""


class Fetch(Protocol):
    """HTTP as this client needs it: GET, every wait bounded, no redirects followed, no body decoded."""

    def __call__(
        self, url: str, *, no_cache: bool = False, key: bytes | None = None, span: Span | None = None
    ) -> AbstractAsyncContextManager[Answer]:
        """Send a request; the answer once its headers are here.

        ``no_cache``: caches on the way are to fetch it anew. ``key``: the content hash, by which forward proxies share
        the work (None: a letter). ``span``: ask for these bytes only. Raises Trouble.
        """


class Sink(Protocol):
    """Takes a body, in a thread."""

    def feed(self, data: bytearray) -> None:
        """Take more bytes; raises WrongBytes."""

    def finish(self) -> None:
        """That was all; raises WrongBytes."""


class WrongBytes(Exception):
    """A server, or a cache on the way, sent something else than the hash promises. Does not leave ``Servers``."""


class NotThere(Exception):
    """A server does not have what it should. Does not leave ``Servers``."""


async def receive(answer: Answer, url: str, span: Span | None, sink: Sink, workers: Workers) -> None:
    """Bring a body into a sink.

    Raises NotThere, WrongBytes, Trouble, or what the sink raises.
    """
    _check_status(answer, url, span)
    batch = bytearray()
    async for data in answer.pieces():
        batch += data
        if len(batch) >= _BATCH:
            await workers.run(sink.feed, batch)
            batch = bytearray()
    await workers.run(_feed_last, sink, batch)


def _feed_last(sink: Sink, data: bytearray) -> None:
    sink.feed(data)
    sink.finish()


def _check_status(answer: Answer, url: str, span: Span | None) -> None:
    status = answer.status
    if status == 429:
        raise UpstreamBusy(f"{url}: busy", _retry_after(answer.headers))
    if status in {403, 404, 410}:  # storage of the S3 kind says 403 to what it does not have
        raise NotThere(f"{url}: not there")
    if status >= 500:
        raise UpstreamFailed(f"{url}: status {status}")
    if status != (200 if span is None else 206):
        raise UpstreamBroken(f"{url}: status {status}, which is no answer to this request")
    if span is not None:
        found = parse_content_range(answer.headers.get("Content-Range", ""))
        if found is None or found.span != span:
            raise UpstreamBroken(f"{url}: sends other bytes than {span}")


def _retry_after(headers: Mapping[str, str]) -> float:
    text = headers.get("Retry-After", "")
    return min(float(text), _LONGEST_BUSY) if text.isascii() and text.isdigit() else 5.0
