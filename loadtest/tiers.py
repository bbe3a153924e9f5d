"""What each tier and source costs: MB/s and CPU per GB of one edge, beside plain reads of the same bytes in the same run.

    python -m loadtest.tiers [--rounds 3] [--megabytes 128]

The edge starts empty for each row but those of the store. Its peers: reading the file, curl from nginx, and curl of the same chunk
objects and of the same CVMFS objects through the same Squid, which has them already. CPU is that of the reading side: of the edge, or
of curl. The last lines show what further tiers and sources cost a hit in the store: ranges of 64 KiB, over one connection.
"""

import argparse
import contextlib
import http.client
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from loadtest import kept, table
from loadtest.cold import REPOSITORY, Blob, push, readable
from loadtest.farm import cpu_seconds
from loadtest.noise import Noise
from registry_proxy.plan.chunks import MIB
from tests.fakes.cvmfs import Publisher
from tests.interop.harness.front import nginx
from tests.interop.harness.process import Failure, call, free_port
from tests.interop.harness.proxy import SOURCE, Proxy, registry_proxy
from tests.interop.harness.registries import registry
from tests.interop.harness.squid import squid

NAME: Final = "images.example.org"
RANGE: Final = 64 * 1024
HITS: Final = 4000
STATIC: Final = "server {{ listen {listen}; root {root}; sendfile on; location = /v2/ {{ return 200; }} }}"
CVMFS: Final = """
[[cvmfs_http]]
repository = "{name}"
servers = ["{url}"]
keys = ["{key}"]
forward_proxies = "{squid}"
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One reading of the whole blob: seconds by the clock, and of CPU."""

    row: str
    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Site:
    """Everything that a row may need; URLs, and where files are."""

    work: Path
    blob: Blob
    upstream: str
    static: str
    file: Path
    tree: Path
    parent: str
    squid: str
    cvmfs: Path
    objects: tuple[str, ...]

    def chunks(self) -> list[str]:
        """The URLs of the chunk objects at the parent."""
        digest = self.blob.digest.replace(":", "/")
        return [f"{self.parent}/chunks/v1/{digest}/{MIB}/{index}" for index in range(-(-self.blob.size // MIB))]


@contextlib.contextmanager
def site(size: int) -> Iterator[Site]:
    """A registry, a parent that has the blob, a Squid, a web server with the file and a CVMFS repository, and a published tree."""
    with readable() as work, registry(work / "storage", work) as upstream:
        blob = push(upstream, size, 3)
        hexes = blob.digest.removeprefix("sha256:")
        tree = work / "mounted"
        file = tree / "blobs" / "sha256" / hexes[:2] / hexes
        file.parent.mkdir(parents=True)
        file.write_bytes(Noise(size, 3)[:])
        root, address = work / "www", f"127.0.0.1:{free_port()}"
        (root / "cvmfs" / NAME).mkdir(parents=True)
        (work / "empty").mkdir()
        repository = Publisher(root / "cvmfs" / NAME, NAME)
        repository.blob(file.read_bytes(), chunk=8 * MIB)
        repository.publish()
        key = repository.write_key(work / "master.pub")
        (root / "file").hardlink_to(file)
        for each in (work / "www", *(work / "www").rglob("*")):
            each.chmod(0o755 if each.is_dir() else 0o644)
        text = STATIC.format(listen=address, root=root)
        more = "cache_mem 1 GB"
        with (
            nginx(text, address, work) as web,
            squid(work, "tiers", more) as through,
            registry_proxy(work / "parent", {SOURCE: f"http://{upstream}"}) as parent,
        ):
            curl([f"{parent.url}/v2/{SOURCE}/{REPOSITORY}/blobs/{blob.digest}"])
            settings = work / "cvmfs.toml"
            base = f"{web.url}/cvmfs/{NAME}"
            settings.write_text(CVMFS.format(name=NAME, url=base, key=key, squid=through.url), encoding="utf-8")
            paths = (path.relative_to(root) for path in sorted((root / "cvmfs" / NAME / "data").rglob("*P")))
            objects = tuple(f"{web.url}/{path}" for path in paths)
            yield Site(work, blob, upstream, f"{web.url}/file", file, tree, parent.url, through.url, settings, objects)


def curl(urls: Sequence[str], *words: str) -> None:
    """Fetch, discarding what comes; raises Failure."""
    call("curl", "--silent", "--show-error", "--fail", *words, *(word for url in urls for word in ("-o", "/dev/null", url)), seconds=300)  # fmt: skip


def timed(row: str, work: Callable[[], object], pid: int | None = None) -> Run:
    """Time some work; CPU of a process, or else of this one and its children."""
    before, began = _cpu(pid), time.perf_counter()
    work()
    wall = time.perf_counter() - began
    return Run(row, wall, _cpu(pid) - before)


def _cpu(pid: int | None) -> float:
    if pid is not None:
        return cpu_seconds(pid)
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def read_file(path: Path) -> None:
    """Read a file from end to end."""
    into = bytearray(MIB)
    with path.open("rb", buffering=0) as file:
        while file.readinto(into):
            pass


def plain(on: Site) -> Iterator[Run]:
    """What one can have without the proxy."""
    yield timed("plain file read", lambda: read_file(on.file))
    yield timed("curl, from nginx", lambda: curl([on.static]))
    yield timed("curl, from the registry", lambda: curl([f"http://{on.upstream}/v2/{REPOSITORY}/blobs/{on.blob.digest}"]))  # fmt: skip
    yield timed("curl, chunk objects from the parent", lambda: curl(on.chunks()))
    through = ("--proxy", on.squid, "-H", f"OCI-Namespace: {SOURCE}", "-H", f"OCI-Repository: {REPOSITORY}")
    curl(on.chunks(), *through)
    yield timed("curl, chunk objects through Squid", lambda: curl(on.chunks(), *through))
    curl(on.objects, *through[:2])
    yield timed("curl, CVMFS objects through Squid", lambda: curl(on.objects, *through[:2]))


ROWS: Final = {
    "upstream": ("curl, from the registry", ()),
    "mounted tier": ("plain file read", ("--cvmfs", "{on.tree}")),
    "parent": ("curl, chunk objects from the parent", ("--parent", "{on.parent}")),
    "parent through Squid": (
        "curl, chunk objects through Squid",
        ("--parent", "{on.parent}", "--forward-proxies", "{on.squid}"),
    ),
    "cvmfs-http through Squid": ("curl, CVMFS objects through Squid", ("--config", "{on.cvmfs}")),
}
STORE: Final = "store"


@contextlib.contextmanager
def edge(on: Site, name: str, words: Sequence[str]) -> Iterator[Proxy]:
    """An empty instance with such tiers and sources."""
    told = [word.format(on=on) for word in words]
    with readable(on.work) as scratch, registry_proxy(scratch / name, {SOURCE: f"http://{on.upstream}"}, *told) as proxy:  # fmt: skip
        yield proxy


def through(on: Site) -> Iterator[Run]:
    """The same bytes by an edge: cold through each tier or source, then from the store."""
    for row, (_, words) in ROWS.items():
        with edge(on, "edge", words) as proxy:
            url = f"{proxy.url}/v2/{SOURCE}/{REPOSITORY}/blobs/{on.blob.digest}"
            pid = proxy.process.popen.pid
            yield timed(row, lambda url=url: curl([url]), pid)  # type: ignore[misc]
            if row == "upstream":
                yield timed(STORE, lambda url=url: curl([url]), pid)  # type: ignore[misc]


def hits(on: Site) -> dict[str, list[float]]:
    """CPU seconds per hit of an edge that has the store alone, and of one that has everything; rounds are interleaved."""
    every = ("--cvmfs", "{on.work}/empty", "--parent", "{on.parent}", "--forward-proxies", "{on.squid}", "--config", "{on.cvmfs}")  # fmt: skip
    found: dict[str, list[float]] = {"store alone": [], "with every tier and source": []}
    with edge(on, "alone", ()) as alone, edge(on, "all", every) as full:
        for _ in range(6):
            for name, proxy in zip(found, (alone, full), strict=True):
                before = cpu_seconds(proxy.process.popen.pid)
                _ask_ranges(proxy, on.blob)
                found[name].append((cpu_seconds(proxy.process.popen.pid) - before) / HITS)
    return {name: values[1:] for name, values in found.items()}  # the first round fills the store


def _ask_ranges(proxy: Proxy, blob: Blob) -> None:
    path = f"/v2/{SOURCE}/{REPOSITORY}/blobs/{blob.digest}"
    connection = http.client.HTTPConnection(proxy.address, timeout=60)
    spread = min(blob.size, 16 * MIB) // RANGE
    with contextlib.closing(connection):
        for number in range(HITS):
            start = number * 7 % spread * RANGE
            connection.request("GET", path, headers={"Range": f"bytes={start}-{start + RANGE - 1}"})
            answer = connection.getresponse()
            if answer.status != 206 or len(answer.read()) != RANGE:
                raise Failure(f"{answer.status} to a range")


def report(runs: Sequence[Run], size: int, found: dict[str, list[float]]) -> str:
    """The table of medians, each row beside its peer; then the hits."""
    wall, cpu = ({row: table.median(getattr(run, name) for run in runs if run.row == row) or 0.0
                  for row in dict.fromkeys(run.row for run in runs)} for name in ("wall", "cpu"))  # fmt: skip
    rows = []
    for row in wall:
        peer = "plain file read" if row == STORE else ROWS.get(row, ("", ()))[0]
        speed = f"{wall[peer] / wall[row]:.2f}" if peer else ""
        rows.append((row, f"{size / wall[row] / 1e6:.0f}", f"{cpu[row] / size * 1e9:.2f}", peer, speed))
    head = ("way", "MB/s", "CPU s per GB", "peer", "speed ÷ peer's")
    lines = [table.markdown(head, rows), ""]
    costs = {name: table.median(values) or 0.0 for name, values in found.items()}
    lines += [
        f"64 KiB hit, {name}: {cost * 1e6:.0f} µs of CPU ({min(found[name]) * 1e6:.0f} to {max(found[name]) * 1e6:.0f})"
        for name, cost in costs.items()
    ]
    alone, full = costs.values()
    lines.append(f"with every tier ÷ alone: {full / alone:.2f}")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, keep, print."""
    parser = argparse.ArgumentParser(
        prog="loadtest.tiers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=128)
    given = parser.parse_args(words)
    size, runs = given.megabytes * 1_000_000, []
    with site(size) as on:
        for number in range(given.rounds):
            for run in (*plain(on), *through(on)):
                runs.append(run)
                kept.say(f"{number + 1}/{given.rounds} {run.row}: {size / run.wall / 1e6:.0f} MB/s")
        found = hits(on)
    kept.keep("tiers", {"megabytes": given.megabytes, "hits": found}, [asdict(run) for run in runs])
    print(report(runs, size, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
