"""Flame graphs of the five hottest flows, and the widest bars of each as a table.

    python -m loadtest.flames [--seconds 5] [--to docs/flames]

Needs py-spy beside what `loadtest.hits` needs. Bars are shares of the samples in which the main thread had work.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from loadtest import kept, table
from loadtest.cold import link
from loadtest.hits import BLOB, FLOWS, MANIFEST, RANGE, SIZE, measure
from loadtest.hits_peers import Server, Stock, ours, stock
from tests.interop.harness.process import call
from tests.interop.harness.proxy import SOURCE, registry_proxy
from tests.interop.harness.registries import registry

RATE: Final = 400  # samples per second
SHOWN: Final = 8
IDLE: Final = ("EpollSelector.select", "_worker", "wait ")
PLACE: Final = re.compile(r" \((?:.*/)?((?:registry_proxy|aiohttp|asyncio)/[^:)]+|[^/)]+)(?::\d+)?\)")


def flows(on: Stock, work: Path) -> Iterator[tuple[str, Server, Callable[[], object]]]:
    """Each flow with the process that serves it, and the load for about a second."""
    with ours(on) as server:
        for label in (MANIFEST, RANGE, BLOB):
            flow = next(flow for flow in FLOWS if flow.label == label)
            yield label, server, lambda flow=flow: measure(flow, "registry-proxy", server, on, 1, work)  # type: ignore[misc]
    with registry(on.storage, work) as upstream:
        yield from _cold("whole blob, cold, fast upstream", upstream, on, work, "")
        with link("near", upstream, work) as (near, _):
            yield from _cold(
                "ranges of a cold blob, 20 MB/s and 20 ms",
                near,
                on,
                work,
                "1000-2000,90000000-90001000,50000000-50100000",
            )


def _cold(
    label: str, upstream: str, on: Stock, work: Path, ranges: str
) -> Iterator[tuple[str, Server, Callable[[], object]]]:
    directory = work / label.partition(",")[0].replace(" ", "-")
    with registry_proxy(directory, {SOURCE: f"http://{upstream}"}) as proxy:
        url = f"{proxy.url}{on.path('blob')}?ns={SOURCE}"
        words = ["-r", ranges] if ranges else []

        def pull() -> None:
            call("curl", "-sSf", "-o", "/dev/null", *words, url)
            shutil.rmtree(proxy.store / "chunks", ignore_errors=True)  # cold again: a store may lose anything

        yield label, Server(proxy.address, proxy.process.popen.pid), pull


def record(pid: int, seconds: int, load: Callable[[], object], form: str, file: Path) -> None:
    """Sample a process under a load."""
    command = [
        "py-spy",
        "record",
        "-p",
        str(pid),
        "-d",
        str(seconds),
        "-r",
        str(RATE),
        "-F",
        "-f",
        form,
        "-o",
        str(file),
    ]
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            load()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=seconds + 60)
    finally:
        over.set()
        thread.join()


def widest(raw: str) -> list[tuple[str, float]]:
    """The functions that most time is spent in themselves: name and share."""
    own: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        leaf = stack.rpartition(";")[2]
        if not leaf.startswith(IDLE):
            own[PLACE.sub(r" (\1)", leaf)] += int(count)
    total = sum(own.values()) or 1
    return [(name, count / total) for name, count in own.most_common(SHOWN)]


def main(words: Sequence[str] | None = None) -> int:
    """Record and print."""
    parser = argparse.ArgumentParser(
        prog="loadtest.flames", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--to", type=Path, default=Path("docs/flames"))
    given = parser.parse_args(words)
    if shutil.which("py-spy") is None:
        parser.error("not installed: py-spy")
    given.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="flames-", ignore_cleanup_errors=True) as name:
        work = Path(name)
        work.chmod(0o755)
        with stock(SIZE, work) as on:
            for label, server, load in flows(on, work):
                raw = work / "raw"
                record(server.pid, given.seconds, load, "raw", raw)
                record(
                    server.pid,
                    given.seconds,
                    load,
                    "flamegraph",
                    given.to / f"{re.sub('[^a-z0-9]+', '-', label.lower())}.svg",
                )
                rows = [(each, f"{share:.0%}") for each, share in widest(raw.read_text(encoding="utf-8"))]
                kept.say(label)
                print(f"\n{label}\n\n{table.markdown(('function', 'share'), rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
