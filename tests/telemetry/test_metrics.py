"""Metrics: every observer shows up under its name and label."""

from dataclasses import dataclass

import msgspec

from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.telemetry.sums import snapshot
from registry_proxy.workers import control


@dataclass
class Figures:
    """A store's figures."""

    bytes: int
    limit: int
    chunks: int
    evictions: int
    writable: bool


def test_observers() -> None:
    """Each observation is found in the exposition; labels are those of the configured upstreams and closed sets."""
    metrics = Metrics(["registry.test"])
    metrics.answered("blob", "GET", 206)
    metrics.answered("blob", "BREW", 405)
    metrics.first_byte("blob", 0.3)
    metrics.served("store", 10, 2)
    metrics.served("upstream", 5, 1)
    metrics.fetched("registry.test", 7)
    metrics.filled()
    metrics.flight_started()
    metrics.flight_started()
    metrics.flight_joined()
    metrics.flight_finished()
    metrics.upstream_error("registry.test", "UpstreamFailed")
    metrics.upstream_latency("registry.test", 0.2)
    metrics.watch_store(lambda: Figures(bytes=100, limit=200, chunks=3, evictions=2, writable=False))
    metrics.verified(right=False)
    metrics.cut("client")
    lines = set(metrics.exposition().decode().splitlines())
    assert lines >= {
        'registry_proxy_requests_total{kind="blob",method="GET",status="2xx"} 1.0',
        'registry_proxy_requests_total{kind="blob",method="other",status="4xx"} 1.0',
        'registry_proxy_first_byte_seconds_bucket{kind="blob",le="0.25"} 0.0',
        'registry_proxy_first_byte_seconds_bucket{kind="blob",le="0.5"} 1.0',
        'registry_proxy_served_bytes_total{tier="store"} 10.0',
        'registry_proxy_hits_total{tier="store"} 2.0',
        "registry_proxy_misses_total 1.0",
        'registry_proxy_fetched_bytes_total{upstream="registry.test"} 7.0',
        "registry_proxy_chunk_fills_total 1.0",
        'registry_proxy_flights_total{what="started"} 2.0',
        'registry_proxy_flights_total{what="joined"} 1.0',
        "registry_proxy_flights_running 1.0",
        'registry_proxy_upstream_errors_total{kind="UpstreamFailed",upstream="registry.test"} 1.0',
        'registry_proxy_upstream_seconds_count{upstream="registry.test"} 1.0',
        "registry_proxy_store_bytes 100.0",
        "registry_proxy_store_limit_bytes 200.0",
        "registry_proxy_store_chunks 3.0",
        "registry_proxy_store_evictions_total 2.0",
        "registry_proxy_store_writable 0.0",
        'registry_proxy_blobs_verified_total{right="false"} 1.0',
        'registry_proxy_responses_cut_total{by="client"} 1.0',
    }


def test_shares_are_figures_from_the_start() -> None:
    """An instance that has served nothing, or nothing from upstream, says 0: a share of a series that is not there would be no figure."""
    value = Metrics().registry.get_sample_value
    assert [value("registry_proxy_served_bytes_total", {"tier": tier}) for tier in ("store", "upstream")] == [0, 0]


def test_figures_cross_between_processes() -> None:
    """Every figure is a number that a process can send to the supervisor, and that is read there as it was."""
    metrics = Metrics(["registry.test"])
    metrics.watch_store(lambda: Figures(bytes=100, limit=200, chunks=3, evictions=2, writable=True))
    figures = control.Figures(snapshot(metrics.registry))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(figures), type=control.Figures) == figures


def test_instances_do_not_share() -> None:
    """Two instances in one process count for themselves."""
    first, second = Metrics(), Metrics()
    first.filled()
    assert second.registry.get_sample_value("registry_proxy_chunk_fills_total") == 0
