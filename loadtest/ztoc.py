"""How fast a zTOC is made of a layer, beside plain inflating of the same layer in the same run.

    python -m loadtest.ztoc [LAYER.tar.gz]

Without a layer one is made of this Python's own library (sources, byte code and shared objects). Figures are MB (a million bytes) of
the *uncompressed* layer per second of processor time; the wall-clock figure beside them shows what else the machine did.
The zTOC is made in memory from the file as it is read, encoded included.
"""

import os
import resource
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest import table
from registry_proxy.lazy.ztoc.builder import ZtocBuilder
from registry_proxy.lazy.ztoc.ztoc import encode

TARGET: Final = 200.0  # MB of uncompressed layer per second and core
ROUNDS: Final = 3
_BLOCK: Final = 1 << 20
_LARGEST: Final = 400_000_000


@dataclass(frozen=True, slots=True)
class Figure:
    """Seconds that one way took for the whole layer: of a processor, and by the clock."""

    cpu: float
    wall: float


def build(layer: Path) -> tuple[int, int]:
    """Make the zTOC; bytes of the uncompressed layer, bytes of the zTOC."""
    with layer.open("rb") as source, ZtocBuilder() as builder:
        while block := source.read(_BLOCK):
            builder.feed(block)
        ztoc = builder.finish()
    return ztoc.uncompressed, len(encode(ztoc))


def inflate(layer: Path) -> int:
    """Inflate with the standard library, nothing kept; the number of bytes."""
    count = 0
    with layer.open("rb") as source:
        stream = zlib.decompressobj(31)
        while block := source.read(_BLOCK):
            while block:
                count += len(stream.decompress(block))
                block = stream.unused_data
                if stream.eof:
                    stream = zlib.decompressobj(31)
    return count


def gunzip(layer: Path) -> None:
    """Inflate with gzip(1), nothing kept."""
    subprocess.run(["gzip", "-dc", layer], stdout=subprocess.DEVNULL, check=True)


def measured(work: Callable[[], object]) -> Figure:
    """The quickest of some rounds; children count."""
    found = []
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), _cpu()
        work()
        found.append(Figure(_cpu() - cpu, time.perf_counter() - wall))
    return min(found, key=lambda figure: figure.cpu)


def report(size: int, figures: dict[str, Figure]) -> str:
    """The table; what is measured against the target is the row ``zTOC``."""
    rows = []
    for name, figure in figures.items():
        rate = size / figure.cpu / 1e6
        wanted = f"≥ {TARGET:.0f} {'ok' if rate >= TARGET else 'MISSED'}" if name == "zTOC" else ""
        rows.append((name, f"{rate:.0f}", f"{size / figure.wall / 1e6:.0f}", wanted))
    return table.markdown(("way", "MB/s per core", "MB/s by the clock", "target"), rows)


def sample(path: Path) -> None:
    """A layer of this Python's own library, up to some 400 MB of it, at gzip's usual level."""
    left = _LARGEST
    with tarfile.open(path, "w:gz", compresslevel=6, format=tarfile.GNU_FORMAT) as archive:
        for root in dict.fromkeys(map(sysconfig.get_path, ("stdlib", "platlib"))):
            for file in sorted(Path(root).rglob("*")):
                if file.is_file() and not file.is_symlink() and (left := left - file.stat().st_size) > 0:
                    archive.add(file, str(file).lstrip(os.sep), recursive=False)


def _cpu() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        layer = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "layer.tar.gz"
        if len(sys.argv) < 2:
            sample(layer)
        size, index = build(layer)
        figures = {
            "zTOC": measured(lambda: build(layer)),
            "Python zlib, plain": measured(lambda: inflate(layer)),
            "gzip -dc": measured(lambda: gunzip(layer)),
        }
        print(
            f"layer: {size / 1e6:.0f} MB, {layer.stat().st_size / 1e6:.0f} MB compressed; zTOC: {index / 1e6:.2f} MB\n"
        )
        print(report(size, figures))


if __name__ == "__main__":
    main()
