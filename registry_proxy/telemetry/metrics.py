"""Every metric, defined once and bound beforehand: an observation on the hot path is one dictionary look-up and one addition.

Labels are bounded: kinds, methods and tiers are closed sets, upstreams are the configured ones; repositories and digests are no
labels.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from registry_proxy.telemetry.tally import METHODS, Tally

TIER_BUCKETS: Final = (0.0002, 0.001, 0.005, 0.025, 0.1, 0.5, 1, 2.5, 5)

JOB_BUCKETS: Final = (0.25, 1, 2.5, 5, 10, 25, 60, 150, 600)

UPSTREAM_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_Metric = TypeVar("_Metric")


class Metrics:
    """The metrics of one instance, in a registry of its own."""

    def __init__(self, upstreams: Iterable[str] = ()) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"registry_proxy_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"registry_proxy_{name}", text, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"registry_proxy_{name}", text, labels, buckets=buckets, registry=registry)

        self._tally = Tally()
        registry.register(self._tally)
        cuts = counter("responses_cut_total", "Answers that ended before their promised length.", "by")
        self._cuts = {by: cuts.labels(by) for by in ("client", "proxy")}
        refused = counter("refused_total", "Connections and requests beyond a limit.", "limit")
        self._refused = {what: refused.labels(what) for what in ("connection", "rate", "body", "password")}
        self._fetched = _Children(counter("fetched_bytes_total", "Bytes of content fetched.", "upstream").labels)
        self._fills = counter("chunk_fills_total", "Chunks written after a miss.")
        self._flights = _Children(
            counter("flights_total", "Fetches: started, joined by a reader, finished.", "what").labels
        )
        self._running = gauge("flights_running", "Fetches under way.")
        self._upstream_errors = counter("upstream_errors_total", "Failed upstream exchanges.", "upstream", "kind")
        self._upstream_seconds = _Children(
            histogram(
                "upstream_seconds", "From an upstream request to its headers.", UPSTREAM_BUCKETS, "upstream"
            ).labels
        )
        verified = counter(
            "blobs_verified_total", "Whole blobs hashed, by whether they were what their digest says.", "right"
        )
        self._verified = {right: verified.labels(str(right).lower()) for right in (True, False)}
        compared = counter(
            "frames_compared_total", "Pieces of partial layers compared with their table of contents.", "right"
        )
        self._compared = {right: compared.labels(str(right).lower()) for right in (True, False)}
        self._tocs = _Children(
            counter(
                "tocs_total",
                "Tables of contents of partial layers: used, unavailable, too-large, wrong, set-aside.",
                "outcome",
            ).labels
        )
        self._tier_seconds = _Children(
            histogram("tier_seconds", "Calls on the file system of a tier.", TIER_BUCKETS, "tier").labels
        )
        self._tier_failures = counter(
            "tier_failures_total", "Calls on a tier that timed out, failed or gave wrong bytes.", "tier", "kind"
        )
        self._tiers_up = Gauge(
            "registry_proxy_tier_up", "1 for a tier that works, 0 for one that rests.", ("tier",), registry=registry
        )
        asked = counter(
            "source_asked_total",
            "Questions to a source, by whether it had the blob (hit, miss) or failed.",
            "source",
            "result",
        )
        self._source_asked = asked.labels
        self._source_seconds = _Children(
            histogram(
                "source_seconds", "From a question to a source to its first bytes.", UPSTREAM_BUCKETS, "source"
            ).labels
        )
        self._sources_up = Gauge(
            "registry_proxy_source_up", "1 for a source that works, 0 after trouble.", ("source",), registry=registry
        )
        self._jobs = _Children(
            Gauge("registry_proxy_lazy_jobs", "Conversions in hand.", ("state",), registry=registry).labels
        )
        self._jobs_over = counter("lazy_jobs_over_total", "Conversions that are over, by outcome.", "kind", "outcome")
        self._job_seconds = _Children(
            histogram("lazy_job_seconds", "Seconds that conversions took.", JOB_BUCKETS, "kind").labels
        )
        self._job_bytes = _Children(counter("lazy_job_bytes_total", "Bytes of layers converted.", "kind").labels)
        for upstream in upstreams:
            self._fetched[upstream].inc(0)

    def exposition(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def answered(self, kind: str, method: str, status: int) -> None:
        """A request was answered. ``kind``: one of ``KINDS``."""
        self._tally.requests[kind, method if method in METHODS else "other", status // 100] += 1

    def first_byte(self, kind: str, seconds: float) -> None:
        """The headers of an answer went out so long after its request came in."""
        self._tally.first_byte[kind].observe(seconds)

    def refused(self, what: str) -> None:
        """A client had more than its limit of this: ``connection``, ``rate`` or ``body``."""
        self._refused[what].inc()

    def cut(self, by: str) -> None:
        """An answer ended early: the ``client`` went away, or the ``proxy`` could not keep its promise."""
        self._cuts[by].inc()

    def served(self, tier: str, n: int, pieces: int) -> None:
        """``n`` bytes of content in so many pieces went from this tier (or from "upstream": misses) to a client."""
        self._tally.served[tier] += n
        self._tally.pieces[tier] += pieces

    def fetched(self, upstream: str, n: int) -> None:
        """``n`` bytes of content came from this upstream."""
        self._fetched[upstream].inc(n)

    def filled(self) -> None:
        """A chunk was written."""
        self._fills.inc()

    def flight_started(self) -> None:
        """A fetch began."""
        self._flights["started"].inc()
        self._running.inc()

    def flight_joined(self) -> None:
        """A reader latched on to a running fetch."""
        self._flights["joined"].inc()

    def flight_finished(self) -> None:
        """A fetch ended, well or not."""
        self._flights["finished"].inc()
        self._running.dec()

    def verified(self, *, right: bool) -> None:
        """A whole blob was hashed; ``right``: it was what its digest says."""
        self._verified[right].inc()

    def compared(self, *, right: int, wrong: int) -> None:
        """So many pieces of a partial layer were what its table of contents says, and so many were not."""
        self._compared[True].inc(right)
        self._compared[False].inc(wrong)

    def toc(self, outcome: str) -> None:
        """The table of contents of a partial layer is ``used``, ``unavailable``, ``too-large``, not what its manifest says (``wrong``), or
        contradicted by bytes that come again and again (``set-aside``)."""
        self._tocs[outcome].inc()

    def upstream_error(self, upstream: str, kind: str) -> None:
        """An exchange with an upstream failed. ``kind``: the name of the error's class."""
        self._upstream_errors.labels(upstream, kind).inc()

    def upstream_latency(self, upstream: str, seconds: float) -> None:
        """An upstream sent its headers so long after the request."""
        self._upstream_seconds[upstream].observe(seconds)

    def tier_latency(self, tier: str, seconds: float) -> None:
        """A call on the file system of a tier took so long."""
        self._tier_seconds[tier].observe(seconds)

    def tier_failed(self, tier: str, kind: str) -> None:
        """A call on a tier failed. ``kind``: ``timeout``, ``gone``, ``error`` or ``corrupt``."""
        self._tier_failures.labels(tier, kind).inc()

    def tier_up(self, tier: str, *, up: bool) -> None:
        """A tier works, or rests after trouble."""
        self._tiers_up.labels(tier).set(up)

    def source_asked(self, source: str, result: str) -> None:
        """A source was asked for a blob. ``result``: ``hit``, ``miss`` or ``failure``."""
        self._source_asked(source, result).inc()

    def source_latency(self, source: str, seconds: float) -> None:
        """A source had something to deliver so long after it was asked."""
        self._source_seconds[source].observe(seconds)

    def source_up(self, source: str, *, up: bool) -> None:
        """A source works, or had trouble when it was asked last."""
        self._sources_up.labels(source).set(up)

    def jobs(self, state: str, count: int) -> None:
        """So many conversions are ``waiting`` or ``running``."""
        self._jobs[state].set(count)

    def job_ended(self, kind: str, outcome: str, seconds: float, n: int) -> None:
        """A conversion is over; ``n``: bytes of the layer read."""
        self._jobs_over.labels(kind, outcome).inc()
        self._job_seconds[kind].observe(seconds)
        self._job_bytes[kind].inc(n)

    def watch_store(self, look: "Callable[[], StoreFigures]") -> None:
        """Look at the store's figures whenever the metrics are read."""
        self.registry.register(_StoreCollector(look))


class StoreFigures(Protocol):
    """What a store holds."""

    @property
    def bytes(self) -> int:
        """Bytes on disk."""

    @property
    def limit(self) -> int:
        """Bytes on disk at most."""

    @property
    def chunks(self) -> int:
        """Chunks held."""

    @property
    def evictions(self) -> int:
        """Groups of chunks evicted since the start."""

    @property
    def writable(self) -> bool:
        """False for a while after trouble with a write."""


class _StoreCollector(Collector):
    """The store's figures, read when they are asked for: nothing is counted twice."""

    def __init__(self, look: Callable[[], StoreFigures]) -> None:
        self._look = look

    def collect(self) -> Iterable[Metric]:
        """The metrics of this moment."""
        figures = self._look()
        yield GaugeMetricFamily("registry_proxy_store_bytes", "Bytes in the store.", figures.bytes)
        yield GaugeMetricFamily("registry_proxy_store_limit_bytes", "Limit of the store.", figures.limit)
        yield GaugeMetricFamily("registry_proxy_store_chunks", "Chunks in the store.", figures.chunks)
        yield GaugeMetricFamily(
            "registry_proxy_store_writable",
            "1, or 0 for ten seconds after a write to the store failed.",
            float(figures.writable),
        )
        yield CounterMetricFamily("registry_proxy_store_evictions", "Groups of chunks evicted.", figures.evictions)


class _Children(dict[str, _Metric]):
    """The children of a metric with one label, made at the first use of a value: ``labels()`` costs more than an addition."""

    def __init__(self, child: Callable[[str], _Metric]) -> None:
        super().__init__()
        self._child = child

    def __missing__(self, value: str) -> _Metric:
        child = self[value] = self._child(value)
        return child
