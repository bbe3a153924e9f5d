"""A source with an eye on it: how often it was asked, what came of it, how long that took, and whether it works."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from registry_proxy.errors import BlobUnknown, Denied, NotSoon, Trouble
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from registry_proxy.sources.base import BlobPlace, Delivery, Source, Urgency
from registry_proxy.telemetry.mean import Mean
from registry_proxy.telemetry.metrics import Metrics

_LONGEST = 200
"""Characters of a trouble that are shown."""


class Watched:
    """See ``sources.base.Source``. ``more``: what the source itself has to tell in ``/stats``; ``clock``: seconds, monotonic.

    A blob that it does not have, or not yet, is an answer; trouble at the beginning of a delivery or in its middle marks it until it
    delivers again. Nothing is skipped because of the mark: each source knows by itself what to leave alone, and for how long.
    """

    def __init__(
        self,
        source: Source,
        metrics: Metrics,
        more: Callable[[], Mapping[str, object]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = source.name
        self._source = source
        self._metrics = metrics
        self._more = more
        self._clock = clock
        self._counts = {"hit": 0, "miss": 0, "failure": 0}
        self._bytes = 0
        self._waits = Mean()
        self._trouble: str | None = None
        metrics.source_up(self.name, up=True)

    def open(
        self, place: BlobPlace, span: Span | None, size: int | None, urgency: Urgency
    ) -> AbstractAsyncContextManager[Delivery]:
        """Ask the source, and note what comes of it."""
        return self._open(place, span, size, urgency)

    def doubt(self, digest: Digest) -> None:
        """Pass it on."""
        self._source.doubt(digest)

    def stats(self) -> dict[str, object]:
        """What ``/stats`` shows of it; ``seconds``: from a question to its first bytes, on average."""
        state = "works" if self._trouble is None else f"trouble: {self._trouble}"
        figures = {**self._counts, "bytes": self._bytes, "seconds": self._waits.value}
        return {"name": self.name, "state": state, **figures, **self._more()}

    @asynccontextmanager
    async def _open(
        self, place: BlobPlace, span: Span | None, size: int | None, urgency: Urgency
    ) -> AsyncIterator[Delivery]:
        began = self._clock()
        opened = False
        try:
            async with self._source.open(place, span, size, urgency) as delivery:
                opened = True
                self._began(self._clock() - began)
                yield _Observed(delivery, self._took, self._failed)
                self._came("hit")
        except (BlobUnknown, Denied, NotSoon):
            if not opened:
                self._came("miss")
            raise
        except Trouble as trouble:
            if not opened:
                self._failed(trouble)
            raise

    def _began(self, seconds: float) -> None:
        self._waits.add(seconds)
        self._metrics.source_latency(self.name, seconds)

    def _took(self, n: int) -> None:
        self._bytes += n

    def _came(self, result: str) -> None:
        self._note(result)
        if self._trouble is not None:
            self._trouble = None
            self._metrics.source_up(self.name, up=True)

    def _failed(self, trouble: Trouble) -> None:
        self._note("failure")
        self._trouble = str(trouble)[:_LONGEST]
        self._metrics.source_up(self.name, up=False)

    def _note(self, result: str) -> None:
        self._counts[result] += 1
        self._metrics.source_asked(self.name, result)


class _Observed:
    """A delivery whose bytes and trouble are noted; trouble of those who take it is none of the source's."""

    def __init__(self, delivery: Delivery, took: Callable[[int], None], failed: Callable[[Trouble], None]) -> None:
        self.span = delivery.span
        self.total = delivery.total
        self.origin = delivery.origin
        self.ranged = delivery.ranged
        self.proves = delivery.proves
        self.waited = delivery.waited
        self._delivery = delivery
        self._took = took
        self._failed = failed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for data in self._delivery:
                self._took(len(data))
                yield data
        except Trouble as trouble:
            self._failed(trouble)
            raise
