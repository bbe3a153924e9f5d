"""Hits: requests per second, CPU per request, latencies and memory of the proxy beside five peers that serve the same bytes.

    python -m loadtest.hits [--rounds 5] [--seconds 1] [--quick] [--only 'registry-proxy' …] [--flow 'range 64 KiB' …]

The load is `wrk` (and curl for whole blobs). What holds on a noisy machine is the CPU time of the serving processes per request, from
/proc. Rounds are interleaved, figures are medians. The proxy has its defaults and its request log on, into a file; the log of
every peer is as its own benchmark would have it. Needs Debian's wrk, varnish, nginx-light and docker-registry.
"""

import argparse
import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from loadtest import kept, plot, table
from loadtest.farm import cpu_seconds
from loadtest.hits_peers import PEERS, Server, Stock, missing, stock
from registry_proxy.oci.content import OCI_MANIFEST
from tests.interop.harness.process import Failure, call

MIB: Final = 1 << 20
SIZE: Final = 256 * MIB
WHOLE: Final = 3  # pulls of the whole blob in one round
OURS: Final = "registry-proxy"
SCRIPT: Final = """
local path, length, parts, blob, close = "{path}", {length}, {parts}, {size}, {close}
wrk.headers["Accept"] = "{accept}"
if close then wrk.headers["Connection"] = "close" end
function init(args) math.randomseed(os.time()) end
function request()
  if length > 0 then
    local ranges = {{}}
    for part = 1, parts do
      local first = math.random(0, math.floor(blob / length) - 1) * length
      ranges[part] = string.format("%d-%d", first, first + length - 1)
    end
    wrk.headers["Range"] = "bytes=" .. table.concat(ranges, ",")
  end
  return wrk.format("GET", path)
end
function done(summary, latency, requests)
  io.write(string.format("FOUND %d %d %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    summary.errors.status, summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Flow:
    """A kind of request. ``length``: bytes of each range, 0 for all; ``parts``: ranges in one request."""

    name: str
    what: str
    length: int = 0
    parts: int = 1
    connections: int = 64
    close: bool = False

    @property
    def label(self) -> str:
        """Such as `range 64 KiB, 512 connections`."""
        ways = f"{self.connections} connection{'s' * (self.connections > 1)}"
        return f"{self.name}, {ways}" + (", each request its own" if self.close else "")


FLOWS: Final = (
    *(Flow("manifest by digest", "digest", connections=count) for count in (1, 8, 64, 512)),
    Flow("manifest by digest", "digest", close=True),
    Flow("manifest by tag", "tag"),
    *(Flow("range 64 KiB", "blob", 64 * 1024, connections=count) for count in (1, 8, 64, 512)),
    Flow("range 64 KiB", "blob", 64 * 1024, close=True),
    Flow("range 1 MiB", "blob", MIB),
    Flow("5 ranges of 4 KiB", "blob", 4096, parts=5),
    Flow("whole blob", "blob", connections=1),
)
RANGE: Final = "range 64 KiB, 64 connections"
MANY: Final = "range 64 KiB, 512 connections"
MANIFEST: Final = "manifest by digest, 64 connections"
BLOB: Final = "whole blob, 1 connection"
TARGETS: Final = (  # figure, flow, peer, at most so many times the peer's
    ("cpu", MANIFEST, "distribution 3", 1 / 3),
    ("cpu", MANIFEST, "distribution 2.8", 1 / 10),
    ("cpu", MANIFEST, "bare aiohttp", 1.5),
    ("cpu", RANGE, "distribution 2.8", 1 / 25),
    ("cpu", RANGE, "distribution 3", 1 / 25),
    ("cpu", RANGE, "bare aiohttp", 1.5),
    ("cpu", BLOB, "distribution 2.8", 1 / 2.5),
    ("cpu", BLOB, "distribution 3", 1 / 2.5),
    ("cpu", BLOB, "nginx", 2.0),
    ("p99", MANY, "bare aiohttp", 2.0),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One round of one flow against one peer. ``rate``: requests per second; ``cpu``: seconds per request; ``p50``, ``p99``: seconds;
    ``memory``: most bytes that the process has had; ``errors``: answers that were none, or no success."""

    peer: str
    flow: str
    rate: float
    cpu: float
    p50: float
    p99: float
    memory: int
    errors: int


def measure(flow: Flow, peer: str, server: Server, on: Stock, seconds: float, work: Path) -> Run:
    """One round."""
    path = on.path(flow.what) + server.query
    before = cpu_seconds(server.pid)
    if flow.what == "blob" and not flow.length:
        told = call("curl", "-sSf", "-w", "%{time_total}\n", *("-o", "/dev/null", f"http://{server.address}{path}") * WHOLE, seconds=120)  # fmt: skip
        times = [float(line) for line in told.split()]
        spent, count = cpu_seconds(server.pid) - before, WHOLE
        return Run(peer, flow.label, count / sum(times), spent / count, min(times), max(times), _memory(server.pid), 0)
    script = work / "load.lua"
    values = {"path": path, "length": flow.length, "parts": flow.parts, "size": on.size, "accept": OCI_MANIFEST}
    script.write_text(SCRIPT.format(**values, close=str(flow.close).lower()), encoding="ascii")
    command = ["wrk", "-t1", f"-c{flow.connections}", f"-d{seconds:.0f}s", "--timeout", "10s", "-s", str(script), f"http://{server.address}"]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=True).stdout
    found = re.search(r"FOUND (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", told)
    if found is None:
        raise Failure(f"wrk says {told!r}")
    count, took, p50, p99, *errors = map(int, found.groups())
    spent = cpu_seconds(server.pid) - before
    return Run(
        peer,
        flow.label,
        count / took * 1e6,
        spent / max(count, 1),
        p50 / 1e6,
        p99 / 1e6,
        _memory(server.pid),
        sum(errors),
    )


def _memory(pid: int) -> int:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def medians(runs: Sequence[Run]) -> dict[tuple[str, str], Run]:
    """One run for each (flow, peer), of medians; errors add up."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.flow, run.peer), []).append(run)
    return {(flow, peer): _middle(peer, flow, some) for (flow, peer), some in found.items()}


def _middle(peer: str, flow: str, some: Sequence[Run]) -> Run:
    rate, cpu, p50, p99 = (
        table.median(getattr(one, name) for one in some) or 0.0 for name in ("rate", "cpu", "p50", "p99")
    )
    return Run(peer, flow, rate, cpu, p50, p99, max(one.memory for one in some), sum(one.errors for one in some))


def report(found: Mapping[tuple[str, str], Run]) -> str:
    """The table of all flows and peers, then the targets."""
    head = (
        "flow",
        "peer",
        "requests/s",
        "CPU µs per request",
        "of bare aiohttp's",
        "p50 ms",
        "p99 ms",
        "peak MiB",
        "errors",
    )
    rows = []
    for (flow, peer), run in found.items():
        bare = found.get((flow, "bare aiohttp"))
        times = f"{run.cpu / bare.cpu:.2f}" if bare and bare.cpu else "-"
        rows.append([flow, peer, f"{run.rate:,.0f}" if run.rate > 50 else f"{run.rate:.1f}", f"{run.cpu * 1e6:,.0f}", times,
                     f"{run.p50 * 1e3:.2f}", f"{run.p99 * 1e3:.2f}", f"{run.memory / MIB:.0f}", str(run.errors)])  # fmt: skip
    lines = [table.markdown(head, rows), ""]
    judged = []
    for figure, flow, peer, factor in TARGETS:
        own, other = found.get((flow, OURS)), found.get((flow, peer))
        if own and other:
            verdict = table.verdict(getattr(own, figure), getattr(other, figure), factor)
            if factor < 0.1:
                verdict = (
                    table.verdict(getattr(own, figure) * 100, getattr(other, figure), factor * 100) + " (in hundredths)"
                )
            judged.append([figure, flow, peer, verdict])
    return "\n".join([*lines, table.markdown(("figure", "flow", "÷ peer", "target"), judged)])


@contextlib.contextmanager
def running(names: Sequence[str], on: Stock) -> Iterator[dict[str, Server]]:
    """All peers at once: an idle one costs nothing."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(PEERS[name](on)) for name in names}


def main(words: Sequence[str] | None = None) -> int:
    """Measure, keep, print; the exit status says whether every target was met."""
    parser = argparse.ArgumentParser(
        prog="loadtest.hits", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round (default: 1)")
    parser.add_argument("--quick", action="store_true", help="one round of the flows that have targets")
    parser.add_argument("--only", action="append", choices=list(PEERS), metavar="PEER")
    parser.add_argument("--flow", action="append", metavar="FLOW", help="a flow's label, or how it begins")
    given = parser.parse_args(words)
    if absent := missing():
        parser.error(f"not installed: {', '.join(absent)}")
    wanted = {flow for _, flow, _, _ in TARGETS} if given.quick else given.flow or [""]
    flows = [flow for flow in FLOWS if any(flow.label.startswith(each) for each in wanted)]
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="hits-", ignore_cleanup_errors=True) as name:
        work = Path(name)
        work.chmod(0o755)
        with stock(SIZE, work) as on, running(given.only or list(PEERS), on) as servers:
            for number in range(1 if given.quick else given.rounds):
                for flow in flows:
                    for peer, server in servers.items():
                        if flow.parts > 1 and peer == "bare aiohttp":
                            continue  # it knows one range at a time
                        runs.append(measure(flow, peer, server, on, given.seconds, work))
                kept.say(f"round {number + 1} done")
    found = medians(runs)
    file = kept.keep("hits", {"seconds": given.seconds}, [asdict(run) for run in runs])
    groups: dict[str, dict[str, float]] = {}
    for (label, peer), run in found.items():
        groups.setdefault(label, {})[peer] = run.cpu * 1e6
    file.with_suffix(".svg").write_text(
        plot.bars("CPU per request of the serving processes", "µs", groups), encoding="utf-8"
    )
    text = report(found)
    file.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return int("MISSED" in text)


if __name__ == "__main__":
    sys.exit(main())
