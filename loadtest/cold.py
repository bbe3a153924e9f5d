"""Cold blobs over a shaped link: the first byte of a range, the speed of a whole pull, and what both cost the link.

    python -m loadtest.cold [--rounds 3] [--only registry-proxy …] [--link near] [--megabytes 256]

The upstream is a docker-registry behind `loadtest.link`: `near` has 20 MB/s and 20 ms, `far` 125 MB/s and 100 ms, where a
connection has a window of 6 MiB that it reaches by slow start. Each peer starts empty: distribution in proxy mode, nginx with
`proxy_cache` and `slice`, Squid as a forward proxy as Debian packages it with the lines of `conf/squid`; `direct` is the client
alone. Per round: scattered cold ranges of 64 KiB, then another blob as a whole, then the same blob again.
"""

import argparse
import contextlib
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from loadtest import kept, table
from loadtest.link import HostPort, ask
from loadtest.noise import Noise
from tests.interop.harness.front import nginx
from tests.interop.harness.process import Failure, Process, answers, free_port
from tests.interop.harness.proxy import SOURCE, registry_proxy
from tests.interop.harness.registries import push_blob, registry
from tests.interop.harness.squid import squid

REPOSITORY: Final = "library/noise"
RANGE: Final = 64 * 1024
RANGES: Final = 7
CHUNK: Final = 1 << 20
MILLISECONDS: Final = 2.0  # that the first byte of a cold range may take over direct, beside a chunk at link rate
LINKS: Final = {"near": ("20MB", "20ms", None), "far": ("125MB", "100ms", "6MiB")}
RATES: Final = {"near": 20e6, "far": 125e6}
SLICED: Final = """
  proxy_cache_path {directory}/sliced levels=1:2 keys_zone=sliced:10m max_size=4g inactive=1h use_temp_path=off;
  server {{
    listen {listen};
    location / {{
      slice 1m;
      proxy_cache sliced;
      proxy_cache_key $uri$slice_range;
      proxy_cache_lock on;
      proxy_cache_valid 200 206 1h;
      proxy_set_header Range $slice_range;
      proxy_pass http://{behind};
    }}
  }}
"""


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob in the upstream."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Way:
    """How a client gets at a blob. ``forward``: a forward proxy in between; ``query``: what the URL ends with."""

    address: str
    forward: str = ""
    query: str = ""

    def get(self, blob: Blob, span: tuple[int, int] | None) -> tuple[float, float, int]:
        """Fetch bytes [first, stop), or all: seconds to the first byte of the body, and to the last; bytes. Raises Failure."""
        path = f"/v2/{REPOSITORY}/blobs/{blob.digest}{self.query}"
        host = self.forward or self.address
        connection = http.client.HTTPConnection(host, timeout=300)
        headers = {"Range": f"bytes={span[0]}-{span[1] - 1}"} if span else {}
        began = time.perf_counter()
        with contextlib.closing(connection):
            connection.request("GET", f"http://{self.address}{path}" if self.forward else path, headers=headers)
            answer = connection.getresponse()
            if answer.status not in {200, 206}:
                raise Failure(f"{host} answers {answer.status}")
            if span and answer.status == 200:  # all that a client can do then is to read what comes before, too
                _skip(answer, span[0])
            count = len(answer.read(1))
            first = time.perf_counter() - began
            if span and answer.status == 200:
                return first, first, span[1] - span[0]
            count += _skip(answer, blob.size)
        if count != (span[1] - span[0] if span else blob.size):
            raise Failure(f"{host} sent {count} bytes")
        return first, time.perf_counter() - began, count


def _skip(answer: http.client.HTTPResponse, count: int) -> int:
    """Read so many bytes, or what there is; how many it was."""
    into, done = memoryview(bytearray(1 << 18)), 0
    while done < count and (more := answer.readinto(into[: count - done])):
        done += more
    return done


@dataclass(frozen=True, slots=True)
class Run:
    """One round of one peer. ``first``: seconds to a cold range's first byte; ``ratio``: of bytes, link ÷ asked.

    ``warm``: seconds of the same whole pull again; its bytes over the link, too, ÷ the blob's.
    """

    peer: str
    link: str
    first: float | None = None
    range_ratio: float | None = None
    whole: float | None = None
    whole_ratio: float | None = None
    warm: float | None = None
    warm_ratio: float | None = None
    failure: str = ""


@contextlib.contextmanager
def link(shape: str, behind: str, directory: Path) -> Iterator[tuple[str, HostPort]]:
    """A shaped link in front of host:port: its address, and where its counters are told."""
    rate, rtt, window = LINKS[shape]
    near, control = (f"127.0.0.1:{free_port()}" for _ in range(2))
    words = ["--listen", near, "--to", behind, "--rate", rate, "--rtt", rtt, "--control", control]
    words += ["--window", window] if window else []
    with Process(f"link-{near[-5:]}", [sys.executable, "-m", "loadtest.link", *words], directory) as process:
        process.ready_when(lambda: answers(f"http://{near}/v2/"))
        yield near, ("127.0.0.1", int(control.rpartition(":")[2]))


@contextlib.contextmanager
def direct(address: str, _: Path) -> Iterator[Way]:
    """Nothing in between."""
    yield Way(address)


@contextlib.contextmanager
def ours(address: str, directory: Path) -> Iterator[Way]:
    """The proxy, as it is installed."""
    with registry_proxy(directory / "proxy", {SOURCE: f"http://{address}"}) as proxy:
        yield Way(proxy.address, query=f"?ns={SOURCE}")


@contextlib.contextmanager
def distribution(address: str, directory: Path) -> Iterator[Way]:
    """docker-registry in proxy mode."""
    own = f"127.0.0.1:{free_port()}"
    config = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "mirror")}},
        "http": {"addr": own},
        "proxy": {"remoteurl": f"http://{address}"},
    }
    file = directory / "mirror.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    with Process("mirror", ["docker-registry", "serve", file], directory) as process:
        process.ready_when(lambda: answers(f"http://{own}/v2/"))
        yield Way(own)


@contextlib.contextmanager
def sliced(address: str, directory: Path) -> Iterator[Way]:
    """nginx that caches slices of a MiB."""
    own = f"127.0.0.1:{free_port()}"
    with nginx(SLICED.format(directory=directory, listen=own, behind=address), own, directory):
        yield Way(own)


@contextlib.contextmanager
def squids(address: str, directory: Path) -> Iterator[Way]:
    """A site's Squid between the client and the registry."""
    with squid(directory, "cold") as running:
        yield Way(address, forward=running.address)


Peer = Callable[[str, Path], AbstractContextManager[Way]]
PEERS: Final[dict[str, Peer]] = {
    "direct": direct,
    "registry-proxy": ours,
    "distribution 2.8 proxy": distribution,
    "nginx slice": sliced,
    "squid": squids,
}


def measure(peer: str, shape: str, behind: str, blobs: tuple[Blob, Blob, Blob], scratch: Path) -> Run:
    """One round; what fails is told in the run."""
    small, scattered, whole = blobs
    with (
        readable(scratch) as name,
        link(shape, behind, name) as (near, control),
        PEERS[peer](near, name) as way,
    ):
        try:
            step = scattered.size // (RANGES + 1) // CHUNK * CHUNK
            way.get(small, (0, RANGE))  # connections and what is learned once are not the range's
            before = _settled(control)
            firsts = [way.get(scattered, (at, at + RANGE))[0] for at in range(step, step * (RANGES + 1), step)]
            ranges = _settled(control) - before
            before = ranges + before
            _, seconds, _ = way.get(whole, None)
            pulled = _settled(control) - before
            _, again, _ = way.get(whole, None)
            repeated = _settled(control) - before - pulled
        except (Failure, OSError, http.client.HTTPException) as error:
            return Run(peer, shape, failure=str(error) or repr(error))
    first = table.median(firsts)
    return Run(
        peer, shape, first, ranges / (RANGE * RANGES), seconds, pulled / whole.size, again, repeated / whole.size
    )


def _settled(control: HostPort) -> int:
    """Bytes that have come over the link, once it has been silent for a second."""
    last, since = -1, time.monotonic()
    deadline = since + 120
    while time.monotonic() - since < 1.0 and time.monotonic() < deadline:
        now = int(ask(control)["down"])
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.1)
    return last


@contextlib.contextmanager
def readable(parent: Path | None = None) -> Iterator[Path]:
    """A directory for a while, in which a Squid may write that has another user."""
    with tempfile.TemporaryDirectory(prefix="c-", dir=parent, ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def push(address: str, size: int, seed: int) -> Blob:
    """Upload a blob of noise."""
    return Blob(push_blob(address, REPOSITORY, Noise(size, seed)[:]), size)


def report(runs: Sequence[Run], size: int) -> str:
    """The table: medians, each beside direct."""
    head = ("link", "peer", "cold 64 KiB, first byte ms", "link ÷ asked", "cold whole, MB/s", "÷ direct", "link ÷ blob",
            "again, MB/s", "link ÷ blob", "target")  # fmt: skip
    rows = []
    for shape in LINKS:
        base = _median([run for run in runs if (run.peer, run.link) == ("direct", shape)])
        for peer in PEERS:
            found = [run for run in runs if (run.peer, run.link) == (peer, shape)]
            if found:
                rows.append([shape, peer, *_cells(_median(found), base, found, size)])
    return table.markdown(head, rows)


def _median(runs: Sequence[Run]) -> Run:
    names = ("first", "range_ratio", "whole", "whole_ratio", "warm", "warm_ratio")
    values = [table.median(getattr(run, name) for run in runs if not run.failure) for name in names]
    first, range_ratio, whole, whole_ratio, warm, warm_ratio = values
    peer, shape = (runs[0].peer, runs[0].link) if runs else ("", "")
    return Run(peer, shape, first, range_ratio, whole, whole_ratio, warm, warm_ratio)


def _cells(run: Run, base: Run, found: Sequence[Run], size: int) -> list[str]:
    failed = [each.failure for each in found if each.failure]
    if run.first is None or run.whole is None or not run.warm:
        return ["-"] * 7 + [failed[0][:80] if failed else ""]
    judged = ""
    if run.peer == "registry-proxy" and base.first is not None and base.whole:
        allowed = base.first + MILLISECONDS / 1e3 + (CHUNK - RANGE) / RATES[run.link]
        judged = f"first byte {run.first * 1e3:.0f} {'≤' if run.first <= allowed else '> MISSED'} {allowed * 1e3:.0f}"
        if run.link == "far":
            judged += f", speed {table.verdict(run.whole, base.whole, 1.0)}"
    ratio = f"{base.whole / run.whole:.2f}" if base.whole else "-"
    return [
        f"{run.first * 1e3:.1f}",
        f"{run.range_ratio:.2f}",
        f"{size / run.whole / 1e6:.1f}",
        ratio,
        f"{run.whole_ratio:.2f}",
        f"{size / run.warm / 1e6:.0f}",
        f"{run.warm_ratio:.2f}",
        judged + (f" ({len(failed)} failed)" if failed else ""),
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Measure, keep, print; the exit status says whether every target was met."""
    parser = argparse.ArgumentParser(
        prog="loadtest.cold", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=list(PEERS), metavar="PEER")
    parser.add_argument("--link", action="append", choices=list(LINKS))
    parser.add_argument("--megabytes", type=int, default=256, help="of the blob that is pulled as a whole")
    given = parser.parse_args(words)
    runs: list[Run] = []
    size = given.megabytes * 1_000_000
    with readable() as work, registry(work / "storage", work) as address:
        blobs = push(address, CHUNK, 0), push(address, 64 << 20, 1), push(address, size, 2)
        for number in range(given.rounds):
            for shape in given.link or LINKS:
                for peer in given.only or PEERS:
                    run = measure(peer, shape, address, blobs, work)
                    runs.append(run)
                    kept.say(f"{number + 1}/{given.rounds} {shape} {peer}: {run.failure or _told(run, size)}")
    kept.keep("cold", {"links": LINKS, "megabytes": given.megabytes}, [asdict(run) for run in runs])
    text = report(runs, size)
    print(text)
    return int("MISSED" in text)


def _told(run: Run, size: int) -> str:
    return f"first byte {(run.first or 0) * 1e3:.0f} ms, whole {size / (run.whole or 1) / 1e6:.0f} MB/s"


if __name__ == "__main__":
    sys.exit(main())
