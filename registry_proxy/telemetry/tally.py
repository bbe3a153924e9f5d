"""What is counted for every request, as plain numbers: an observation is one addition, without locks or label look-ups.

Only the event loop's thread counts here; Prometheus's own classes, which cost about ten times as much, are for everything that is rarer.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

KINDS: Final = ("ping", "manifest", "blob", "chunk", "tags", "referrers", "catalog", "token", "health", "other")
METHODS: Final = ("GET", "HEAD", "other")

FIRST_BYTE_BUCKETS: Final = (0.0005, 0.002, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30)
"""Seconds. SOCI gives up on headers after 3 s, stargz on a read after 30 s."""

UPSTREAM: Final = "upstream"
"""The tier of what had to be fetched: misses."""


class Spread:
    """How often a figure fell into each of some buckets; the last one has no upper bound."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Another figure."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """For each bucket its upper bound as Prometheus writes it, and how many figures were not above it."""
        found, so_far = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self.counts, strict=True):
            so_far += count
            found.append((str(floatToGoString(bound)), float(so_far)))  # type: ignore[no-untyped-call]
        return found


class Tally(Collector):
    """``requests``: by kind, method and first digit of the status; ``served``, ``pieces``: bytes and pieces of content by tier."""

    def __init__(self) -> None:
        self.requests = dict.fromkeys(
            ((kind, method, status) for kind in KINDS for method in METHODS for status in range(2, 6)), 0
        )
        self.first_byte = {kind: Spread(FIRST_BYTE_BUCKETS) for kind in KINDS}
        self.served: defaultdict[str, int] = defaultdict(
            int, {"store": 0, UPSTREAM: 0}
        )  # a share of nothing is no figure
        self.pieces: defaultdict[str, int] = defaultdict(int)

    def collect(self) -> Iterator[Metric]:
        """The metrics of this moment."""
        requests = CounterMetricFamily(
            "registry_proxy_requests", "Requests answered.", labels=("kind", "method", "status")
        )
        for (kind, method, status), count in self.requests.items():
            requests.add_metric((kind, method, f"{status}xx"), count)
        yield requests
        waits = HistogramMetricFamily(
            "registry_proxy_first_byte_seconds", "From a request to its answer's headers.", labels=("kind",)
        )
        for kind, spread in self.first_byte.items():
            waits.add_metric((kind,), spread.cumulative(), spread.total)
        yield waits
        served = CounterMetricFamily(
            "registry_proxy_served_bytes", "Bytes of content sent to clients.", labels=("tier",)
        )
        hits = CounterMetricFamily("registry_proxy_hits", "Pieces of content that a tier had.", labels=("tier",))
        for tier, count in self.served.items():
            served.add_metric((tier,), count)
            if tier != UPSTREAM:
                hits.add_metric((tier,), self.pieces[tier])
        yield served
        yield hits
        misses = self.pieces.get(UPSTREAM, 0)
        yield CounterMetricFamily("registry_proxy_misses", "Pieces of content that no tier had.", misses)
