"""Hits of an instance of one process beside those of an instance of several, driven by wrk.

    python -m loadtest.workers [--workers 1 --workers 2 …] [--rounds 3] [--seconds 4] [--connections 64]

Each instance has served everything once before. CPU time is that of all processes of the instance, per request; wrk takes its part of the
same cores, so requests per second say what this machine does as a whole.
"""

import argparse
import asyncio
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from loadtest import kept, table
from loadtest.farm import cpu_seconds
from tests.fakes.instance import noise
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.interop.harness.proxy import SOURCE, registry_proxy

BLOB: Final = 16 << 20
KINDS: Final = {"manifest": None, "64 KiB range": 64 << 10, "1 MiB range": 1 << 20}
_RATE: Final = re.compile(rb"Requests/sec:\s+([0-9.]+)")
_COUNT: Final = re.compile(rb"([0-9]+) requests in ([0-9.]+)s")


@dataclass(frozen=True, slots=True)
class Run:
    """One kind of request for some seconds. ``rate``: requests per second; ``cpu``: microseconds of CPU time per request."""

    workers: int
    kind: str
    rate: float
    cpu: float


async def wrk(url: str, length: int | None, connections: int, seconds: int) -> tuple[float, int]:
    """Requests per second, and how many there were. Raises RuntimeError if any was refused."""
    ranged = () if length is None else ("-H", f"Range: bytes={3 << 20}-{(3 << 20) + length - 1}")
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", *ranged, url), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    rate, count = _RATE.search(said), _COUNT.search(said)
    if process.returncode or rate is None or count is None or b"Non-2xx" in said or b"Socket errors" in said:
        raise RuntimeError(said.decode())
    return float(rate[1]), int(count[1])


async def measure(workers: int, connections: int, seconds: int) -> list[Run]:
    """An instance of so many workers, warm, and each kind of request."""
    found = []
    async with FakeUpstream() as upstream:
        blob, manifest = upstream.add_blob(noise(BLOB)), upstream.add_image(layers=[b"layer"] * 20)
        with tempfile.TemporaryDirectory(prefix="workers-") as name:
            arguments = (f"--workers={workers}",) if workers > 1 else ()
            with registry_proxy(Path(name), {SOURCE: upstream.url}, *arguments) as proxy:
                base = f"http://{proxy.address}/v2/{SOURCE}/{REPOSITORY}"
                pid = proxy.process.popen.pid
                for kind, length in KINDS.items():
                    url = f"{base}/manifests/{manifest}" if length is None else f"{base}/blobs/{blob}"
                    await wrk(url, length, connections, 1)  # every server has opened what it serves
                    before = cpu_seconds(pid)
                    rate, count = await wrk(url, length, connections, seconds)
                    cpu = (cpu_seconds(pid) - before) / count * 1e6
                    kept.say(f"{workers} workers, {kind}: {rate:.0f}/s, {cpu:.0f} µs")
                    found.append(Run(workers, kind, rate, cpu))
    return found


def report(runs: Sequence[Run]) -> str:
    """The medians, each instance beside that of one process."""
    rows = []
    for kind in KINDS:
        single = table.median(run.rate for run in runs if run.kind == kind and run.workers == 1)
        for workers in sorted({run.workers for run in runs}):
            mine = [run for run in runs if (run.kind, run.workers) == (kind, workers)]
            rate, cpu = table.median(run.rate for run in mine), table.median(run.cpu for run in mine)
            gain = f"{rate / single:.2f}" if rate and single else "-"
            rows.append([kind, str(workers), f"{rate:.0f}", gain, f"{cpu:.0f}"])
    return table.markdown(["request", "workers", "requests/s", "÷ one process", "CPU, µs"], rows)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, keep, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, action="append", help="how many; may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=64)
    asked = parser.parse_args(words)
    runs: list[Run] = []
    for _ in range(asked.rounds):
        for workers in asked.workers or (1, 2):
            runs += asyncio.run(measure(workers, asked.connections, asked.seconds))
    conditions = {"connections": asked.connections, "seconds": asked.seconds}
    kept.keep("workers", conditions, [asdict(run) for run in runs])
    print(report(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
