"""A farm's burst: N nodes start one image at the same moment through one proxy that has nothing of it.

    python -m loadtest.farm [--nodes 1 --nodes 10 …] [--rounds 3] [--pattern stargz-analysis-optimised] [--workers 2]

Every node asks for what a real snapshotter asked for (`patterns/`): manifest, config, then the ranges of a lazy start, in order, over
one connection from an address of its own. `ideal` is the time that loopback takes to carry the bytes of all nodes from one process
to another (sendfile to a discarding reader, in the same run); nginx serves the same requests from files that it has. With 10,000
nodes each range is cut down to its first byte: what is left is the cost of answering. One node in fifty hashes all that it gets.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import resource
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import msgspec

from loadtest import kept, nodes, replay, table
from loadtest.replay import Image, Pattern
from registry_proxy.plan.chunks import Span
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.interop.harness.front import nginx
from tests.interop.harness.process import free_port
from tests.interop.harness.proxy import SOURCE, registry_proxy

NODES: Final = (1, 10, 100, 1000, 10_000)
UNREAD: Final = 10_000  # nodes from which only the first byte of each range is asked for
HASHED: Final = 50
CLIENTS: Final = 2  # processes that play nodes
AHEAD: Final = 1.0  # seconds to start them
ONCE: Final = 1.02  # upstream bytes ÷ bytes of the chunks that were asked for
IDEAL: Final = 2.0  # median time to ready ÷ ideal
TAIL: Final = 1.8  # 99th percentile ÷ median
CHUNK: Final = 1 << 20
STATIC: Final = """
  server {{ listen {listen} backlog=16384; root {root}; keepalive_requests 1000000; sendfile on; tcp_nopush on;
    location = /v2/ {{ return 200; }} }}
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One burst. ``upstream``: bytes of blobs that crossed the border; ``chunks``: of the distinct chunks asked for; ``body``: all that
    the nodes got; ``ideal``: seconds; ``cpu``: of the serving processes, seconds."""

    peer: str
    nodes: int
    p50: float
    p99: float
    errors: int
    body: int
    upstream: int
    chunks: int
    ideal: float
    cpu: float
    first_error: str = ""


def plans(pattern: Pattern, image: Image, host: str, *, unread: bool) -> list[nodes.Wanted]:
    """The requests of one node."""
    found = []
    for request in pattern.requests:
        lines, status, data = [f"Host: {host}", f"OCI-Namespace: {SOURCE}", "Accept: */*"], 200, b""
        if request.blob is None:
            path, body = f"/v2/{REPOSITORY}/manifests/{image.manifest}", image.text
            data = body
        else:
            blob = image.blobs[request.blob]
            path = f"/v2/{REPOSITORY}/blobs/{image.digests[request.blob]}"
            span = request.span or Span(0, len(blob))
            if request.span is not None:
                span = Span(span.start, span.start + 1) if unread else span
                lines.append(f"Range: bytes={span.start}-{span.stop - 1}")
                status = 206
            data = blob[span.start : span.stop]
        text = "\r\n".join([f"{request.method} {path} HTTP/1.1", *lines, "", ""])
        found.append(nodes.Wanted(text, status, len(data), hashlib.sha256(data).hexdigest()))
    return found


async def burst(wanted: list[nodes.Wanted], count: int, address: str, scratch: Path) -> nodes.Outcome:
    """Let the nodes start, spread over processes; what they found."""
    host, _, port = address.rpartition(":")
    at = time.monotonic() + AHEAD + count / 20_000
    running = []
    for first in range(CLIENTS):
        file = scratch / f"plan-{first}.json"
        plan = nodes.Plan(host, int(port), count, first, CLIENTS, at, HASHED, wanted)
        file.write_bytes(msgspec.json.encode(plan))
        command = (sys.executable, "-m", "loadtest.nodes", str(file))
        running.append(await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE))
    said = [json.loads((await process.communicate())[0]) for process in running]
    found = nodes.Outcome()
    for one in said:
        found.seconds += one["seconds"]
        found.failures += one["failures"]
        found.body += one["body"]
    return found


def carried(count: int, scratch: Path) -> float:
    """Seconds that loopback takes for so many bytes, by sendfile from one process to a reader that discards them in another."""
    file = scratch / "carried"
    if not file.exists():
        file.write_bytes(os.urandom(32 << 20))
    sample = min(max(count, 1 << 30), 8 << 30)
    context = multiprocessing.get_context("spawn")
    with socket.create_server(("127.0.0.1", 0)) as server:
        reader = context.Process(target=_discard, args=(server.getsockname(),))
        reader.start()
        connection, _ = server.accept()
        with connection, file.open("rb") as source:
            began, left = time.perf_counter(), sample
            while left > 0:
                left -= connection.sendfile(source, 0, min(left, 32 << 20))
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
            seconds = time.perf_counter() - began
        reader.join(10)
    return seconds * count / sample


def _discard(address: tuple[str, int]) -> None:
    into = bytearray(1 << 20)
    with socket.create_connection(address) as connection:
        while connection.recv_into(into):
            pass


@asynccontextmanager
async def ours(upstream: FakeUpstream, scratch: Path, workers: int) -> AsyncIterator[tuple[str, int]]:
    """A proxy with an empty store: its address and process."""
    arguments = (f"--workers={workers}",) if workers > 1 else ()
    with registry_proxy(scratch / "proxy", {SOURCE: upstream.url}, *arguments) as proxy:
        yield proxy.address, proxy.process.popen.pid


@asynccontextmanager
async def static(image: Image, scratch: Path) -> AsyncIterator[tuple[str, int]]:
    """nginx with the same content in files."""
    root = scratch / "root"
    blobs, manifests = root / "v2" / REPOSITORY / "blobs", root / "v2" / REPOSITORY / "manifests"
    blobs.mkdir(parents=True)
    manifests.mkdir()
    root.chmod(0o755)
    (manifests / str(image.manifest)).write_bytes(image.text)
    for digest, blob in zip(image.digests, image.blobs, strict=True):
        with (blobs / str(digest)).open("wb") as file:
            for at in range(0, len(blob), 64 << 20):
                file.write(blob[at : at + (64 << 20)])
    address = f"127.0.0.1:{free_port()}"
    with nginx(STATIC.format(listen=address, root=root), address, scratch) as front:
        yield address, front.process.popen.pid


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children, living ones included."""
    total = 0
    for each in (pid, *_children(pid)):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            total += sum(map(int, fields[11:13]))
    return total / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
            yield int(child)
            yield from _children(int(child))


async def measure(pattern: Pattern, count: int, peer: str, workers: int) -> Run:
    """One burst against one peer, from nothing."""
    with tempfile.TemporaryDirectory(prefix="farm-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        scratch.chmod(0o755)
        async with FakeUpstream() as upstream:
            image = replay.stock(upstream, pattern)
            serving: AbstractAsyncContextManager[tuple[str, int]]
            serving = static(image, scratch) if peer == "nginx" else ours(upstream, scratch, workers)
            async with serving as (address, pid):
                wanted = plans(pattern, image, address, unread=count >= UNREAD)
                before = cpu_seconds(pid)
                found = await burst(wanted, count, address, scratch)
                cpu = cpu_seconds(pid) - before
            sent = sum(upstream.sent(digest) for digest in image.digests)
        ideal = await asyncio.to_thread(carried, found.body, scratch)
    ready = sorted(found.seconds) or [math.nan]
    first = found.failures[0] if found.failures else ""
    p50, p99 = ready[len(ready) // 2], ready[min(len(ready) - 1, math.ceil(len(ready) * 0.99) - 1)]
    return Run(peer, count, p50, p99, len(found.failures), found.body, sent, _chunks(pattern), ideal, cpu, first)


def _chunks(pattern: Pattern) -> int:
    """Bytes of the chunks that the pattern touches."""
    touched = {
        (blob, index) for blob, span in pattern.spans() for index in range(span.start // CHUNK, -(-span.stop // CHUNK))
    }
    return sum(min(CHUNK, pattern.sizes[blob] - index * CHUNK) for blob, index in touched)


def report(runs: Sequence[Run]) -> str:
    """The medians of each burst, beside its targets."""
    head = ("nodes", "peer", "ready p50 s", "p99 s", "ideal s", "p50 ÷ ideal", "p99 ÷ p50", "upstream ÷ chunks",
            "GB to nodes", "server CPU s", "errors")  # fmt: skip
    rows = []
    for count, peer in dict.fromkeys((run.nodes, run.peer) for run in runs):
        found = [run for run in runs if (run.nodes, run.peer) == (count, peer)]
        middle = {name: table.median(getattr(run, name) for run in found) or 0.0 for name in _MEDIANS}
        rows.append([str(count), peer, *_cells(count, peer, middle, sum(run.errors for run in found))])
    return table.markdown(head, rows)


_MEDIANS: Final = ("p50", "p99", "ideal", "upstream", "chunks", "body", "cpu")


def _cells(count: int, peer: str, middle: dict[str, float], errors: int) -> list[str]:
    burst = count == 1000 and peer != "nginx"
    slow, tail = middle["p50"] / middle["ideal"], middle["p99"] / middle["p50"]
    return [
        f"{middle['p50']:.3f}",
        f"{middle['p99']:.3f}",
        f"{middle['ideal']:.3f}",
        table.verdict(middle["p50"], middle["ideal"], IDEAL) if burst else f"{slow:.2f}",
        table.verdict(middle["p99"], middle["p50"], TAIL) if burst else f"{tail:.2f}",
        table.verdict(middle["upstream"], middle["chunks"], ONCE) if burst else _ratio(middle),
        f"{middle['body'] / 1e9:.2f}",
        f"{middle['cpu']:.2f}",
        f"{errors}" + (" MISSED" if errors else ""),
    ]


def _ratio(middle: dict[str, float]) -> str:
    return f"{middle['upstream'] / middle['chunks']:.2f}"


def main(words: Sequence[str] | None = None) -> int:
    """Measure, keep, print; the exit status says whether every target was met."""
    parser = argparse.ArgumentParser(
        prog="loadtest.farm", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nodes", type=int, action="append", help=f"all of {NODES} without one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pattern", default="stargz-analysis-optimised")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args(words)
    most = max(given.nodes or NODES) * 2 + 1000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, hard), hard))
    pattern, runs = replay.load(given.pattern), []
    for number in range(given.rounds):
        for count in given.nodes or NODES:
            for peer in ("registry-proxy", "nginx") if count < UNREAD else ("registry-proxy",):
                run = asyncio.run(measure(pattern, count, peer, given.workers))
                runs.append(run)
                said = f"p50 {run.p50:.2f} s, p99 {run.p99:.2f} s, ideal {run.ideal:.2f} s"
                kept.say(f"{number + 1}/{given.rounds} {count} nodes, {peer}: {said} {run.first_error}")
    kept.keep(
        "farm", {"pattern": given.pattern, "workers": given.workers, "clients": CLIENTS}, [asdict(run) for run in runs]
    )
    text = report(runs)
    print(text)
    return int("MISSED" in text)


if __name__ == "__main__":
    sys.exit(main())
