"""A stock image, lazily: `import pandas` in a 1.24 GB image that nobody prepared, by the forms that the proxy made of it.

    python -m loadtest.stock_start [--runs 3]

The rig is that of `loadtest.lazy_start`: a docker-registry behind a link of 20 MB/s and 20 ms, containerd, runc, the stargz
snapshotter; every node is new. A round: a full pull straight over the link; `lazy convert` of both forms by a proxy that has nothing;
then, by that proxy, the plain tag pulled as a whole (and run again: what the program alone takes), `TAG-esgz` lazily, the SOCI index read as its snapshotter would, and beside
them the reference library's own conversions of the same image, which the proxy has seen before. What a node gets is counted by the
proxy: bytes of bodies.

The SOCI row is no container: a reader in Python makes the snapshotter's requests for the files that `import pandas` opens, in that
order, each span fetched when it is needed, checked and inflated.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from loadtest import kept, table
from loadtest.lazy_start import IMAGES, NO_BACKGROUND_FETCH, PROGRAM, RTT, TREE, drop_page_cache, link, start, storage
from loadtest.rows import RATE
from registry_proxy.lazy.files import normal_path
from tests.interop.harness.containerd import Containerd, containerd_2, lazy_containerd
from tests.interop.harness.process import Failure, call, mounts_below
from tests.interop.harness.proxy import SOURCE, Proxy, registry_proxy
from tests.interop.harness.registries import Image, registry
from tests.interop.harness.soci import SociClient, SociLayer
from tests.setup.programs import program

LONG: Final = 900.0  # seconds that making a form may take
COLD, WARM, ESGZ, SOCI = "full pull, straight", "full pull, warm proxy", "-esgz, warm proxy", "SOCI reader, warm proxy"
FLOOR: Final = "run again, nothing to pull"
LIBRARY: Final = {"converted": "estargz.Build, warm proxy", "optimised": "estargz.Build, files in front, warm proxy"}
OF_COLD, OF_WARM = 0.1, 1 / 3  # what a lazy start may take of a full pull's time
OF_IMAGE: Final = {ESGZ: 0.15, SOCI: 0.25}  # what it may get of the image's bytes
ORDER: Final = (COLD, WARM, FLOOR, ESGZ, SOCI, *LIBRARY.values())


@dataclass(frozen=True, slots=True)
class Run:
    """One start. ``got``: bytes that the node got; ``image``: bytes of the image that nobody prepared."""

    row: str
    seconds: float
    got: int
    image: int


class Site:
    """A proxy that nodes start from, and what it sends them."""

    def __init__(self, proxy: Proxy, work: Path) -> None:
        self._proxy = proxy
        self._work = work
        self._number = 0

    def convert(self, image: Image, form: str) -> float:
        """Have a form made; seconds."""
        began = time.monotonic()
        call(sys.executable, "-m", "registry_proxy", "lazy", "convert", "--server", self._proxy.url, "--format", form,
             f"{SOURCE}/{image.repository}:latest", environment={"PYTHONPATH": str(TREE)}, seconds=LONG)  # fmt: skip
        return time.monotonic() - began

    def full(self, image: Image) -> Iterator[tuple[float, int]]:
        """Pull all of it and run, then run again: each time seconds, and bytes that the node got."""
        with containerd_2(self._root(), {SOURCE: self._proxy.url}) as containerd:
            yield self._counted(lambda: start(containerd, image)[0])
            yield self._counted(lambda: run_again(containerd, image))

    def lazily(self, image: Image, tag: str = "latest") -> tuple[float, int]:
        """The same by the stargz snapshotter; raises Failure if a layer was unpacked."""
        with lazy_containerd(self._root(), SOURCE, self._proxy.address, NO_BACKGROUND_FETCH) as containerd:
            return self._counted(lambda: all_lazy(containerd, image, tag))

    def soci(self, image: Image, opened: Sequence[str]) -> tuple[float, int]:
        """The same by SOCI's requests."""
        return self._counted(lambda: read_by_spans(self._proxy.address, image, opened))

    def _root(self) -> Path:
        """A new node's directory; what the last one has unpacked is on the disk by then, so that nobody waits for it."""
        os.sync()
        self._number += 1
        return self._work / f"n{self._number}"

    def _counted(self, work: Callable[[], float]) -> tuple[float, int]:
        before = self._sent()
        seconds = work()
        return seconds, self._sent() - before

    def _sent(self) -> int:
        lines = (json.loads(line) for line in self._proxy.log.splitlines() if '"request.answered"' in line)
        return sum(line["bytes"] for line in lines)


def run_again(containerd: Containerd, image: Image) -> float:
    """What the program alone takes; seconds."""
    began = time.monotonic()
    containerd.run(f"{SOURCE}/{image.repository}:latest", "again", *PROGRAM)
    return time.monotonic() - began


def all_lazy(containerd: Containerd, image: Image, tag: str) -> float:
    """Pull and run lazily; seconds."""
    seconds, lazy = start(containerd, image, tag)
    if lazy != len(image.layer_digests):
        raise Failure(f"{lazy} of {len(image.layer_digests)} layers were lazy")
    return seconds


def read_by_spans(address: str, image: Image, opened: Sequence[str]) -> float:
    """Read files of the image by its SOCI index (v2); seconds."""
    program("socifind")  # built, if need be, before the clock starts
    began = time.monotonic()
    client = SociClient(address, f"{SOURCE}/{image.repository}")
    layers = client.layers(client.tagged("latest-soci"), "v2")
    read = sum(len(contents(layers, path)) for path in opened)
    if not read:
        raise Failure("no file was read")
    return time.monotonic() - began


def contents(layers: Sequence[SociLayer], path: str) -> bytes:
    """A file as the topmost layer that names it has it; nothing of what is no regular file."""
    for layer in reversed(layers):
        if (entry := layer.entries.get(path)) is not None:
            if entry.kind == "hardlink":
                return contents(layers, normal_path(entry.link))
            return layer.read(path) if entry.kind == "reg" else b""
    raise Failure(f"no layer has {path}")


def measure(rounds: int) -> Iterator[Run]:
    """The starts of every round."""
    stored, images = storage()
    opened = (images["full"].layout.parent / "opened").read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory(prefix="rp-", ignore_cleanup_errors=True) as name:
        with registry(stored, Path(name)) as ranged:
            for number in range(rounds):
                work = Path(name) / f"r{number}"
                work.mkdir()
                yield from round_of(ranged, images, opened, work)
        if left := mounts_below(Path(name)):
            raise Failure(f"still mounted: {left}")


def round_of(ranged: str, images: dict[str, Image], opened: Sequence[str], work: Path) -> Iterator[Run]:
    """Each row once."""
    stock = images["full"]

    def told(row: str, seconds: float, got: int) -> Run:
        kept.say(f"{row}: {seconds:.1f} s, {got / 1e6:.1f} MB")
        return Run(row, seconds, got, stock.size)

    with link(ranged, RATE, work) as slow:
        drop_page_cache()
        with containerd_2(work / "direct", {SOURCE: f"http://{slow.address}"}) as containerd:
            yield told(COLD, start(containerd, stock)[0], slow.carried())
        before = slow.carried()
        with registry_proxy(work / "proxy", {SOURCE: f"http://{slow.address}"}) as proxy:
            site = Site(proxy, work)
            for form in ("estargz", "soci"):
                kept.say(f"lazy convert --format {form}: {site.convert(stock, form):.1f} s")
            kept.say(f"over the link meanwhile: {(slow.carried() - before) / 1e6:.1f} MB")
            for row, found in zip((WARM, FLOOR), site.full(stock), strict=True):
                yield told(row, *found)
            yield told(ESGZ, *site.lazily(stock, "latest-esgz"))
            yield told(SOCI, *site.soci(stock, opened))
            for form, row in LIBRARY.items():
                site.lazily(images[form])  # the proxy has seen it then
                yield told(row, *site.lazily(images[form]))


def report(runs: Sequence[Run]) -> tuple[str, bool]:
    """The table of medians, each figure beside its target; and whether all targets were met."""
    seconds = {row: table.median(run.seconds for run in runs if run.row == row) for row in ORDER}
    lines = []
    for row in ORDER:
        mine = [run for run in runs if run.row == row]
        got = table.median(run.got for run in mine)
        lazy = row in OF_IMAGE
        lines.append([
            row,
            str(len(mine)),
            table.seconds(seconds[row]),
            table.megabytes(got),
            table.verdict(seconds[row], seconds[COLD], OF_COLD) if lazy else _ratio(seconds[row], seconds[COLD]),
            table.verdict(seconds[row], seconds[WARM], OF_WARM) if lazy else _ratio(seconds[row], seconds[WARM]),
            table.verdict(got, mine[0].image, OF_IMAGE[row]) if lazy and mine else _ratio(got, runs[0].image),
        ])  # fmt: skip
    head = ("start", "runs", "s", "MB to the node", "÷ full pull, straight", "÷ full pull, warm proxy", "÷ image")
    return table.markdown(head, lines), "MISSED" not in str(lines)


def _ratio(value: float | None, of: float | None) -> str:
    return f"{value / of:.2f}" if value is not None and of else "-"


def main(words: Sequence[str] | None = None) -> int:
    """Measure, keep, print; the exit status says whether every target was met."""
    parser = argparse.ArgumentParser(
        prog="stock_start", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="rounds (default: 3)")
    given = parser.parse_args(words)
    if os.geteuid() != 0:
        parser.error("it mounts file systems and drops the page cache: run it as root")
    runs: list[Run] = []
    try:
        runs.extend(measure(given.runs))
    finally:
        kept.keep("stock-start", {"rate": RATE, "rtt": RTT, "images": dict(IMAGES)}, [asdict(run) for run in runs])
    text, met = report(runs)
    print(text)
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
