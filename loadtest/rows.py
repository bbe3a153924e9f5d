"""What `lazy_start` measures and what it should find: rows, the jobs that produce them, their targets. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Literal

from loadtest import table

Visit = Literal["direct", "cold", "second"]
RATE: Final = 20_000_000  # of the link, bytes per second
SECOND: Final = 0.65  # of direct lazy: what a second node may take


@dataclass(frozen=True, slots=True)
class Job:
    """One image form pulled and run from one upstream, straight or through a proxy. ``rate``: of the link, bytes per second.

    ``chunk_size``: the proxy's, as configured; empty: its default. ``slow``: only when asked for.
    """

    form: Literal["full", "optimised", "converted"]
    ranged: bool
    proxied: bool
    rate: int = RATE
    chunk_size: str = ""
    slow: bool = False

    @property
    def name(self) -> str:
        """Such as `optimised-rangeless-proxy`."""
        form = self.form + (f"-{self.chunk_size.lower()}" if self.chunk_size else "")
        way = "proxy" if self.proxied else "direct"
        rate = "" if self.rate == RATE else f"-{self.rate // 1_000_000}mbps"
        return f"{form}-{'ranged' if self.ranged else 'rangeless'}-{way}{rate}"

    @property
    def visits(self) -> tuple[Visit, ...]:
        """Straight; or by a first node and by a second, which finds the proxy warm."""
        return ("cold", "second") if self.proxied else ("direct",)


FULL, FULL_RANGELESS = Job("full", True, False), Job("full", False, False)
OPTIMISED, CONVERTED = Job("optimised", True, False), Job("converted", True, False)
OUTLIVES_DEADLINE = Job("optimised", False, True, rate=8_000_000)  # 51 s for what the snapshotter waits 30 s for
JOBS: Final = (
    FULL,
    FULL_RANGELESS,
    OPTIMISED,
    CONVERTED,
    Job("optimised", False, False, slow=True),
    Job("converted", False, False, slow=True),
    Job("full", True, True),
    Job("full", False, True),
    Job("optimised", True, True),
    Job("optimised", False, True),
    Job("converted", True, True),
    Job("converted", True, True, chunk_size="256KiB"),
    Job("converted", False, True),
    OUTLIVES_DEADLINE,
)


@dataclass(frozen=True, slots=True)
class Run:
    """One measured pull and run. ``seconds``: None if it failed, which ``failure`` tells.

    ``link``: bytes over the link until the program had run; ``settled``: until the link had fallen silent. ``image``: bytes of the
    image in the registry. ``cpu``: CPU seconds of the proxy.
    """

    job: str
    visit: Visit
    seconds: float | None
    link: int
    settled: int
    image: int
    cpu: float | None = None
    lazy_layers: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """The medians of a row's runs; ``runs`` of them succeeded, ``failed`` did not."""

    seconds: float | None
    settled: float | None
    image: float | None
    cpu: float | None
    lazy_layers: float | None
    runs: int
    failed: int


NOTHING: Final = Figure(None, None, None, None, None, 0, 0)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a row should be at most, as multiples: of a direct row's seconds, of its bytes, or of the image's bytes."""

    seconds: float | None = None
    direct: Job | None = None
    direct_bytes: float | None = None
    image_bytes: float | None = None


def limits(job: Job, visit: Visit) -> Limits:
    """The targets of a row."""
    if visit == "direct":
        return Limits()
    full, lazy = FULL if job.ranged else FULL_RANGELESS, CONVERTED if job.form == "converted" else OPTIMISED
    if visit == "second":
        return Limits() if job.form == "full" or job == OUTLIVES_DEADLINE else Limits(SECOND, lazy)
    if job == OUTLIVES_DEADLINE:
        return Limits(image_bytes=1.02)
    if job.form == "full":
        return Limits(1.03, full, image_bytes=1.06)
    if not job.ranged:
        return Limits(0.9, full, image_bytes=1.06)
    if job.form == "optimised":
        return Limits(1.05, lazy, direct_bytes=1.1)
    return Limits(0.9, lazy, direct_bytes=1.25 if job.chunk_size == "256KiB" else 1.75)


def chosen(patterns: Sequence[str], *, with_slow: bool) -> list[Job]:
    """The jobs whose names match a pattern (all without one); slow ones only when asked for by name or by the switch."""
    if patterns:
        return [job for job in JOBS if any(fnmatchcase(job.name, pattern) for pattern in patterns)]
    return [job for job in JOBS if with_slow or not job.slow]


def figures(runs: Iterable[Run]) -> dict[tuple[str, Visit], Figure]:
    """The medians by (job, visit)."""
    by_row: dict[tuple[str, Visit], list[Run]] = {}
    for run in runs:
        by_row.setdefault((run.job, run.visit), []).append(run)
    return {row: _figure(found) for row, found in by_row.items()}


def _figure(runs: Sequence[Run]) -> Figure:
    good = [run for run in runs if run.seconds is not None]
    return Figure(
        seconds=table.median(run.seconds for run in good if run.seconds is not None),
        settled=table.median(run.settled for run in good),
        image=table.median(run.image for run in good),
        cpu=table.median(run.cpu for run in good if run.cpu is not None),
        lazy_layers=table.median(run.lazy_layers for run in good),
        runs=len(good),
        failed=len(runs) - len(good),
    )


def report(jobs: Iterable[Job], found: Mapping[tuple[str, Visit], Figure]) -> str:
    """The table: a line for each row that was measured, each figure beside its target."""
    head = (
        "row",
        "visit",
        "runs",
        "s",
        "MB on the link",
        "of the image",
        "proxy CPU s",
        "lazy layers",
        "time ÷ direct",
        "bytes",
    )
    rows = [(job, visit) for job in jobs for visit in job.visits if (job.name, visit) in found]
    return table.markdown(head, [_line(job, visit, found) for job, visit in rows])


def _line(job: Job, visit: Visit, found: Mapping[tuple[str, Visit], Figure]) -> list[str]:
    figure, limit = found[job.name, visit], limits(job, visit)
    return [
        job.name,
        visit,
        f"{figure.runs}" + (f", {figure.failed} FAILED" if figure.failed else ""),
        table.seconds(figure.seconds),
        table.megabytes(figure.settled),
        f"{figure.settled / figure.image:.2f}" if figure.settled is not None and figure.image else "-",
        table.seconds(figure.cpu),
        "-" if figure.lazy_layers is None else f"{figure.lazy_layers:.0f}",
        *judged(figure, limit, found),
    ]


def judged(figure: Figure, limit: Limits, found: Mapping[tuple[str, Visit], Figure]) -> tuple[str, str]:
    """The verdicts on a row's seconds and bytes; empty where there is no target."""
    direct = found.get((limit.direct.name, "direct"), NOTHING) if limit.direct else NOTHING
    seconds = table.verdict(figure.seconds, direct.seconds, limit.seconds) if limit.seconds else ""
    volumes = []
    if limit.direct_bytes:
        volumes.append("÷ direct " + table.verdict(figure.settled, direct.settled, limit.direct_bytes))
    if limit.image_bytes:
        volumes.append("÷ image " + table.verdict(figure.settled, figure.image, limit.image_bytes))
    return seconds, ", ".join(volumes)


def missed(jobs: Iterable[Job], found: Mapping[tuple[str, Visit], Figure]) -> bool:
    """True if a row failed or missed a target."""
    rows = [(job, visit) for job in jobs for visit in job.visits if (job.name, visit) in found]
    lines = (judged(found[job.name, visit], limits(job, visit), found) for job, visit in rows)
    return any(found[job.name, visit].failed for job, visit in rows) or "MISSED" in " ".join(map(" ".join, lines))
