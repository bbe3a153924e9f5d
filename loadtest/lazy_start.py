"""The cold table: `import pandas` in a 1.24 GB image behind a slow link, straight and through the proxy, with the real programs.

    loadtest/lazy-start [--runs 3] [--only 'optimised-*' …] [--with-slow]

Needs root and what `python -m tests.setup` installs; the image is built when it is not in the cache. The upstream is a
docker-registry, without byte ranges where an nginx strips them; the link in front of it has 20 MB/s and 20 ms. A run is what a
user waits for: `ctr images pull` and `ctr run` until the program has ended, on a node that has nothing. Jobs are interleaved, so
that a noisy minute touches all of them. The page cache is dropped before the first node of a job (then the programs are read
back in, so that only the image is cold); a second node finds the proxy warm. The snapshotter prefetches and does not fetch in
the background: that is what was recorded in `patterns/`.
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from loadtest.link import HostPort, ask
from loadtest.rows import JOBS, Job, Run, Visit, chosen, figures, missed, report
from tests.interop.harness.containerd import Containerd, containerd_2, lazy_containerd
from tests.interop.harness.front import front
from tests.interop.harness.process import Failure, Process, answers, call, free_port, isolated, mounts_below
from tests.interop.harness.proxy import SOURCE, Proxy, registry_proxy
from tests.interop.harness.registries import Image, registry
from tests.setup import images
from tests.setup.cache import ROOT, once, say
from tests.setup.programs import program

IMAGES: Final = {"full": "analysis", "optimised": "analysis-esgz", "converted": "analysis-esgz-converted"}
PROGRAM: Final = ("/usr/bin/python3", "-c", "import pandas; print(pandas.Series(range(10)).sum())")
PRINTS: Final = "45"
NO_BACKGROUND_FETCH: Final = "no_background_fetch = true\n"
RTT: Final = "20ms"
LIMIT: Final = 240.0  # seconds for a pull, and for a run
QUIET: Final = 2.0  # seconds without a byte on the link after which a run has settled
SETTLING: Final = 120.0  # seconds that settling may take
RESULTS: Final = Path(__file__).parent / "results"
TREE: Final = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Slow:
    """A registry behind the link. ``address``: host:port of the link's near end."""

    address: str
    control: HostPort

    def carried(self) -> int:
        """Bytes that have come over the link so far."""
        return int(ask(self.control)["down"])

    def settled(self) -> int:
        """The same, once the link has been silent for a while; raises Failure."""
        deadline, since, last = time.monotonic() + SETTLING, time.monotonic(), self.carried()
        while time.monotonic() - since < QUIET:
            if time.monotonic() > deadline:
                raise Failure(f"bytes still come over the link after {SETTLING:.0f} s")
            time.sleep(0.2)
            if (now := self.carried()) != last:
                last, since = now, time.monotonic()
        return last


def storage() -> tuple[Path, dict[str, Image]]:
    """A docker-registry's storage with every form of the image, kept in the cache, and the images by form."""
    stocked = {form: Image(name, images.layout(name)) for form, name in IMAGES.items()}

    def fill(new: Path) -> None:
        with registry(new, new.parent) as address:
            for image in stocked.values():
                call(*isolated("skopeo", "copy", "--insecure-policy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
                               f"oci:{image.layout}:latest", f"docker://{address}/{image.repository}:latest"), seconds=300)  # fmt: skip

    key = "-".join(image.manifest_digest[7:15] for image in stocked.values())
    return once(ROOT / "storages" / f"analysis-{key}", fill), stocked


@contextlib.contextmanager
def link(behind: str, rate: int, directory: Path) -> Iterator[Slow]:
    """A link of a rate in front of host:port, as a process of its own."""
    near, control = (f"127.0.0.1:{free_port()}" for _ in range(2))
    words = ["--listen", near, "--to", behind, "--rate", str(rate), "--rtt", RTT, "--control", control]
    name = f"link-{near.rpartition(':')[2]}"
    with Process(
        name, [sys.executable, "-m", "loadtest.link", *words], directory, {"PYTHONPATH": str(TREE)}
    ) as process:
        process.ready_when(lambda: answers(f"http://{near}/v2/"))
        yield Slow(near, ("127.0.0.1", int(control.rpartition(":")[2])))


class Bench:
    """The upstreams, and what it takes to run a job against them."""

    def __init__(self, ranged: str, rangeless: str, stocked: dict[str, Image], work: Path) -> None:
        self._upstreams = {True: ranged, False: rangeless}
        self._images, self._work = stocked, work

    def run(self, job: Job) -> list[Run]:
        """Measure a job's visits; what fails is a run with the reason, not an exception."""
        with tempfile.TemporaryDirectory(prefix="j-", dir=self._work, ignore_cleanup_errors=True) as name:
            try:
                return self._visits(job, Path(name))
            except Failure as error:
                return [
                    Run(job.name, visit, None, 0, 0, self._images[job.form].size, failure=str(error))
                    for visit in job.visits
                ]

    def _visits(self, job: Job, directory: Path) -> list[Run]:
        drop_page_cache()
        with link(self._upstreams[job.ranged], job.rate, directory) as slow:
            if not job.proxied:
                return [self._visit(job, "direct", slow, slow.address, directory, None)]
            with registry_proxy(
                directory / "proxy", {SOURCE: f"http://{slow.address}"}, *arguments(job, directory)
            ) as proxy:
                return [self._visit(job, visit, slow, proxy.address, directory, proxy) for visit in job.visits]

    def _visit(self, job: Job, visit: Visit, slow: Slow, address: str, directory: Path, proxy: Proxy | None) -> Run:
        """One node that has nothing pulls and runs the image."""
        image, before, cpu = self._images[job.form], slow.carried(), cpu_seconds(proxy)
        seconds, lazy, failure = None, 0, ""
        try:
            with node(job, directory / visit, address) as containerd:
                seconds, lazy = start(containerd, image)
                reached = slow.carried() - before
                settled = slow.settled() - before  # the node is still there: nobody lets go of a running flight
        except Failure as error:
            failure, seconds = str(error), None
            reached = settled = slow.carried() - before
        cpu = None if cpu is None else round((cpu_seconds(proxy) or 0) - cpu, 2)
        return Run(job.name, visit, seconds, reached, settled, image.size, cpu, lazy, failure)


def arguments(job: Job, directory: Path) -> list[str | Path]:
    """What the proxy is told beyond its upstream."""
    if not job.chunk_size:
        return []
    file = directory / "proxy.toml"
    file.write_text(f'[store]\nchunk_size = "{job.chunk_size}"\n', encoding="utf-8")
    return ["--config", file]


@contextlib.contextmanager
def node(job: Job, root: Path, address: str) -> Iterator[Containerd]:
    """A containerd with nothing in it: plain for a full pull, else with the stargz snapshotter."""
    if job.form == "full":
        running = containerd_2(root, {SOURCE: f"http://{address}"})
    else:
        running = lazy_containerd(root, SOURCE, address, NO_BACKGROUND_FETCH)
    with running as containerd:
        yield containerd


def start(containerd: Containerd, image: Image, tag: str = "latest") -> tuple[float, int]:
    """Pull and run; seconds taken, and how many layers are lazy mounts. Raises Failure."""
    reference, began = f"{SOURCE}/{image.repository}:{tag}", time.monotonic()
    containerd.pull(reference, seconds=LIMIT)
    printed = containerd.run(reference, "start", *PROGRAM, seconds=LIMIT)
    taken = time.monotonic() - began
    if printed.strip() != PRINTS:
        raise Failure(f"the program printed {printed!r}")
    return taken, len(containerd.remote_mounts())


def drop_page_cache() -> None:
    """Leave nothing of any image in memory, but the programs that read it."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
    used = ("containerd", "ctr", "containerd-shim-runc-v2", "stargzd")
    for binary in (*map(program, used), *map(Path, ("/usr/sbin/runc", "/usr/bin/docker-registry", "/usr/sbin/nginx"))):
        binary.read_bytes()


def cpu_seconds(proxy: Proxy | None) -> float | None:
    """CPU time of a proxy so far, user and system."""
    if proxy is None:
        return None
    fields = Path(f"/proc/{proxy.process.popen.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """Both upstreams, in directories with names short enough for Unix sockets."""
    kept, stocked = storage()
    with tempfile.TemporaryDirectory(prefix="rp-", ignore_cleanup_errors=True) as name:
        work = Path(name)
        with registry(kept, work) as ranged, front(ranged, work, ranges=False) as rangeless:
            yield Bench(ranged, rangeless.address, stocked, work)
        if left := mounts_below(work):
            raise Failure(f"still mounted: {left}")


def measure(jobs: Sequence[Job], rounds: int) -> Iterator[Run]:
    """Every job in every round, one after the other."""
    with bench() as running:
        for number in range(rounds):
            for job in jobs:
                for run in running.run(job):
                    told = (
                        run.failure.splitlines()[0]
                        if run.failure
                        else f"{run.seconds:.1f} s, {run.settled / 1e6:.1f} MB"
                    )
                    say(f"{number + 1}/{rounds} {run.job} {run.visit}: {told}")
                    yield run


def keep(runs: Sequence[Run]) -> Path:
    """Write the runs down with what they ran on; the file."""
    now = datetime.now(UTC)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"lazy-start-{now:%Y%m%dT%H%M%SZ}.json"
    machine = {"processors": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    link_shape = {"rtt": RTT, "rates": {job.name: job.rate for job in JOBS}}
    document = {
        "measured": now.isoformat(),
        "machine": machine,
        "link": link_shape,
        "runs": [asdict(run) for run in runs],
    }
    file.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return file


def main(words: Sequence[str] | None = None) -> int:
    """Measure, keep, print; the exit status says whether every target was met."""
    parser = argparse.ArgumentParser(
        prog="lazy-start", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = "\n".join(job.name + (" (slow)" if job.slow else "") for job in JOBS)
    parser.add_argument(
        "--only", action="append", default=[], metavar="JOB", help=f"a job or a pattern; may be repeated:\n{names}"
    )
    parser.add_argument(
        "--runs", type=int, default=3, metavar="N", help="rounds; the table has their medians (default: 3)"
    )
    parser.add_argument(
        "--with-slow", action="store_true", help="also the slow jobs: lazily and straight from a range-less registry"
    )
    given = parser.parse_args(words)
    jobs = chosen(given.only, with_slow=given.with_slow)
    if not jobs:
        parser.error("no such job")
    if os.geteuid() != 0:
        parser.error("it mounts file systems and drops the page cache: run it as root")
    runs: list[Run] = []
    try:
        runs.extend(measure(jobs, given.runs))  # what was measured before an interruption is kept too
    finally:
        say(f"kept in {keep(runs)}")
    found = figures(runs)
    print(report(jobs, found))
    return int(missed(jobs, found))


if __name__ == "__main__":
    sys.exit(main())
