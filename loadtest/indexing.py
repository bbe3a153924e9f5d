"""What making lazy forms costs those who pull meanwhile: the time of a cold pull while layers are indexed or copied, beside none of that.

    python -m loadtest.indexing [--rounds 8] [--only loopback]

loopback: a proxy that has the image `analysis` (379 MB of gzip) is told to make its SOCI index, or its eStargz copy; while its
processes are at that, a blob of 256 MB that it does not have is pulled through it from a docker-registry, as fast as two cores go.
link: the image itself is pulled cold, layer by layer, over 20 MB/s and 20 ms, while each layer that has come is indexed and copied (`eager`).

The best round of each counts beside the median: others use the machine too, and what is looked for is what the making adds.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from loadtest import kept, table
from loadtest.cold import REPOSITORY, Blob, push
from loadtest.lazy_start import link, storage
from loadtest.rows import RATE
from loadtest.tiers import curl
from tests.interop.harness.process import Failure, call, wait_for
from tests.interop.harness.proxy import SOURCE, Proxy, registry_proxy
from tests.interop.harness.registries import Image, registry
from tests.setup import layout as oci

NOISE: Final = "noise.example"  # the source host of the blob that is pulled meanwhile
SIZE: Final = 256_000_000
SLOWER: Final = 1.1  # times the seconds without
FORMS: Final = {"soci": "-soci", "estargz": "-esgz"}
QUIET: Final = "nothing"
LAZY: Final = '[lazy]\nunready = "original"\nsoci = "{ready}"\nestargz = "{ready}"\n'


@dataclass(frozen=True, slots=True)
class Run:
    """One pull. ``making``: what was made meanwhile; ``unfinished``: whether that still went on when the pull was over."""

    way: str
    making: str
    seconds: float
    size: int
    unfinished: bool = False


@contextlib.contextmanager
def instance(work: Path, upstreams: dict[str, str], ready: str) -> Iterator[Proxy]:
    """A new proxy."""
    work.mkdir(parents=True)
    settings = work / "proxy.toml"
    settings.write_text(LAZY.format(ready=ready), encoding="utf-8")
    with registry_proxy(work, upstreams, "--config", settings) as proxy:
        yield proxy


def states(proxy: Proxy) -> dict[str, int]:
    """How many jobs wait and run."""
    with urllib.request.urlopen(f"{proxy.url}/stats", timeout=30) as answer:
        found: dict[str, int] = json.load(answer)["lazy"]["states"]
    return found


def beside(work: Path, upstreams: dict[str, str], image: Image, blob: Blob, making: str) -> Run:
    """Pull a blob while a form of the image is made."""
    with instance(work, upstreams, "on-demand") as proxy:
        base = f"{proxy.url}/v2/{SOURCE}/{image.repository}"
        curl([f"{base}/blobs/{digest}" for digest in image.digests if digest != image.manifest_digest])
        os.sync()  # what was written so far is on the disk: nobody waits for that
        if making != QUIET:
            curl([f"{base}/manifests/latest{FORMS[making]}"])
            wait_for("jobs run", lambda: states(proxy).get("running", 0) > 0)
        began = time.perf_counter()
        curl([f"{proxy.url}/v2/{NOISE}/{REPOSITORY}/blobs/{blob.digest}"])
        seconds = time.perf_counter() - began
        return Run("loopback", making, seconds, blob.size, bool(states(proxy)))


def over_the_link(work: Path, ranged: str, image: Image, making: str) -> Run:
    """Pull the image itself, layer by layer."""
    work.mkdir(parents=True)
    ready = "off" if making == QUIET else "eager"
    with link(ranged, RATE, work) as slow, instance(work / "p", {SOURCE: f"http://{slow.address}"}, ready) as proxy:
        base = f"{proxy.url}/v2/{SOURCE}/{image.repository}"
        layers = [layer["digest"] for layer in oci.manifest(image.layout)["layers"]]
        curl([f"{base}/manifests/latest"])
        began = time.perf_counter()
        for layer in layers:
            curl([f"{base}/blobs/{layer}"])
        seconds = time.perf_counter() - began
        size = sum(image.digests[layer] for layer in layers)
        return Run("link", making, seconds, size, bool(states(proxy)))


def measure(rounds: int, ways: Collection[str]) -> Iterator[Run]:
    """Every way in every round, one after the other."""
    stored, images = storage()
    image = images["full"]
    with tempfile.TemporaryDirectory(prefix="rp-", ignore_cleanup_errors=True) as name:
        work = Path(name)
        with registry(stored, work) as ranged, registry(work / "storage", work) as other:
            blob = push(other, SIZE, 7)
            upstreams = {SOURCE: f"http://{ranged}", NOISE: f"http://{other}"}
            for number in range(rounds):
                for making in (QUIET, *FORMS) if "loopback" in ways else ():
                    yield told(beside(work / f"{number}-{making}", upstreams, image, blob, making))
                for making in (QUIET, "soci and estargz") if "link" in ways else ():
                    yield told(over_the_link(work / f"{number}-link-{making[:4]}", ranged, image, making))
                call("find", work, "-maxdepth", "2", "-name", "store", "-exec", "rm", "-r", "{}", "+")


def told(run: Run) -> Run:
    """The run, which is told as it comes; raises Failure if what was to go on meanwhile was over too soon."""
    kept.say(f"{run.way}, making {run.making}: {run.seconds:.2f} s, {run.size / run.seconds / 1e6:.0f} MB/s")
    if run.making != QUIET and not run.unfinished:
        raise Failure(f"{run.making} was made before the pull was over")
    return run


def report(runs: Sequence[Run]) -> str:
    """Each way beside the same pull with nothing made."""
    rows = {(run.way, run.making): [each for each in runs if (each.way, each.making) == (run.way, run.making)] for run in runs}  # fmt: skip
    best = {row: min(run.seconds for run in found) for row, found in rows.items()}
    lines = []
    for (way, making), found in rows.items():
        mine, quiet = best[way, making], best.get((way, QUIET))
        lines.append([
            way, making, str(len(found)), f"{mine:.2f}", f"{table.median(run.seconds for run in found):.2f}",
            f"{found[0].size / mine / 1e6:.0f}", "" if making == QUIET else table.verdict(mine, quiet, SLOWER),
        ])  # fmt: skip
    head = ("pull", "made meanwhile", "runs", "s, best", "s, median", "MB/s, best", "best ÷ nothing made")
    return table.markdown(head, lines)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, keep, print; the exit status says whether every target was met."""
    parser = argparse.ArgumentParser(
        prog="indexing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", choices=["loopback", "link"])
    given = parser.parse_args(words)
    runs: list[Run] = []
    try:
        runs.extend(measure(given.rounds, [given.only] if given.only else ["loopback", "link"]))
    finally:
        kept.keep("indexing", {"link": RATE}, [asdict(run) for run in runs])
    text = report(runs)
    print(text)
    return int("MISSED" in text)


if __name__ == "__main__":
    sys.exit(main())
