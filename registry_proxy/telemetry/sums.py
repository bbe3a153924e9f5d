"""The metrics of several processes as those of one instance: added up, and what a process has counted outlives it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

_CREATED: Final = "_created"

Labels = tuple[tuple[str, str], ...]


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One figure."""

    name: str
    labels: Labels
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric with its samples. ``kind``: Prometheus's word for its type."""

    name: str
    kind: str
    text: str
    samples: tuple[Sample, ...]


def snapshot(registry: CollectorRegistry) -> tuple[Family, ...]:
    """The figures of this process."""
    return tuple(
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            tuple(Sample(one.name, tuple(sorted(one.labels.items())), one.value) for one in metric.samples),
        )
        for metric in registry.collect()
    )


@dataclass(slots=True)
class Sums:
    """The figures of all processes of an instance, each as it said them last."""

    _latest: dict[str, tuple[Family, ...]] = field(default_factory=dict)
    _departed: tuple[Family, ...] = ()

    def note(self, process: str, figures: tuple[Family, ...]) -> None:
        """What a process says of itself now."""
        self._latest[process] = figures

    def leave(self, process: str) -> None:
        """A process has ended: what it has counted stays counted, what it had it has no longer."""
        left = self._latest.pop(process, ())
        counted = [family for family in left if family.kind != "gauge"]
        self._departed = tuple(_added([self._departed, counted]))

    def total(self) -> tuple[Family, ...]:
        """The figures of the instance."""
        return tuple(_added([self._departed, *self._latest.values()]))


def served(figures: Iterable[Family]) -> list[dict[str, object]]:
    """What went to clients, for ``/stats``: of each tier ``name``, ``bytes``, and ``share`` of all bytes (None of nothing)."""
    tiers = by_label(figures, "registry_proxy_served_bytes_total")
    whole = sum(tiers.values())
    return [{"name": tier, "bytes": n, "share": n / whole if whole else None} for tier, n in tiers.items()]


def by_label(figures: Iterable[Family], name: str) -> dict[str, int]:
    """The values of a metric that has one label, by the label."""
    samples = (one for family in figures for one in family.samples if one.name == name)
    return {one.labels[0][1]: int(one.value) for one in samples}


def exposition(figures: Iterable[Family]) -> bytes:
    """Figures in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Told(figures))
    return generate_latest(registry)


class _Told(Collector):
    def __init__(self, figures: Iterable[Family]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """The figures as they were told."""
        for family in self._figures:
            metric = Metric(family.name, family.text, family.kind)
            for one in family.samples:
                metric.add_sample(one.name, dict(one.labels), one.value)
            yield metric


def _added(processes: Iterable[Sequence[Family]]) -> Iterable[Family]:
    heads: dict[str, Family] = {}
    sums: dict[str, dict[tuple[str, Labels], float]] = {}
    for family in (family for figures in processes for family in figures):
        heads.setdefault(family.name, family)
        into = sums.setdefault(family.name, {})
        for one in family.samples:
            key = one.name, one.labels
            if one.name.endswith(_CREATED):  # a time: the counting began with the first of them
                into[key] = min(into.get(key, one.value), one.value)
            else:
                into[key] = into.get(key, 0.0) + one.value
    for name, head in heads.items():
        yield Family(name, head.kind, head.text, tuple(Sample(*key, value) for key, value in sums[name].items()))
