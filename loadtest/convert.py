"""What an eStargz copy of a layer costs, beside the reference library's ``estargz.Build`` on the same layer in the same run.

    python -m loadtest.convert [LAYER.tar.gz …] [--levels 1 9]

Without layers those of the image ``analysis`` are taken (``python -m tests.setup image analysis`` makes it). Each way runs in a process
of its own: processor seconds, wall seconds and peak memory are that process's. The library gets two processors, as it divides a layer
by their number; the copies of either are verified chunk by chunk by the library. ``scaled``: wall seconds for the image of 17.2 GB of
whose conversion "45m" is the published figure, at the rate measured here.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest import table
from registry_proxy.lazy.convert import codec
from registry_proxy.lazy.convert.image import LAYER
from registry_proxy.lazy.convert.layer import convert_layer
from registry_proxy.lazy.convert.values import Options
from tests.setup import images
from tests.setup import layout as oci
from tests.setup.programs import program

IMAGE: Final = "analysis"
ATHENA: Final = 17.2e9  # bytes of the published image
LONGEST: Final = 180.0  # seconds that it may take
LESS_CPU: Final = {9: 10.0, 1: 3.0}  # how many times less than the library at a level
_LIBRARY: Final = "estargz.Build -{level}"
_OURS: Final = "isal 1"
_FALLBACK: Final = "zlib 1"


@dataclass(frozen=True, slots=True)
class Cost:
    """Of all layers together: processor and wall seconds, bytes in (uncompressed) and out; the largest peak of memory in bytes."""

    cpu: float = 0.0
    wall: float = 0.0
    plain: int = 0
    out: int = 0
    memory: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.cpu + other.cpu,
            self.wall + other.wall,
            self.plain + other.plain,
            self.out + other.out,
            max(self.memory, other.memory),
        )


def measured(command: Sequence[str | Path]) -> tuple[Cost, str]:
    """What a program cost, and the one line that it printed."""
    began = time.perf_counter()
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    wall = time.perf_counter() - began
    return Cost(used.ru_utime + used.ru_stime, wall, memory=used.ru_maxrss << 10), said


def cost(way: str, layer: Path, out: Path) -> Cost:
    """Convert a layer in one of the ways; the copy is verified."""
    if way in {_OURS, _FALLBACK}:
        spent, said = measured([sys.executable, "-m", "loadtest.convert", "--one", way, layer, out])
    else:
        level = way.rpartition("-")[2]
        spent, said = measured([program("esgz"), "build", "-level", level, layer, out])
    told = json.loads(said)
    subprocess.run([program("esgz"), "verify", out, told["toc_digest"]], check=True, stdout=subprocess.DEVNULL)
    return spent + Cost(plain=told["uncompressed"], out=told["size"])


def one(way: str, layer: Path, out: Path) -> None:
    """Convert a layer in this process."""
    if way == _FALLBACK:
        codec.fast = None
    elif codec.fast is None:
        raise SystemExit("isal is not installed: pip install 'registry-proxy[lazy]'")
    with layer.open("rb") as source:
        done = convert_layer(source, LAYER, out, options=Options(level=1))
    print(json.dumps({"toc_digest": str(done.toc_digest), "uncompressed": done.uncompressed_size, "size": done.size}))


def of_image() -> list[Path]:
    """The layers of the image, lowest first."""
    layout = images.layout(IMAGE)
    return [oci.blob(layout, layer["digest"]) for layer in oci.manifest(layout)["layers"]]


def report(costs: dict[str, Cost], compressed: int) -> str:
    """The table; ours is judged against the library at each level, and by the scaled time."""
    ours = costs[_OURS]
    rows = []
    for way, spent in costs.items():
        level = int(way[-1])
        less, wanted = spent.cpu / ours.cpu, LESS_CPU.get(level) if way.startswith("estargz") else None
        scaled = spent.wall * ATHENA / spent.plain
        rows.append((
            way, f"{spent.cpu:.1f}", f"{spent.wall:.1f}", f"{spent.plain / spent.cpu / 1e6:.0f}",
            f"{spent.out / compressed:.2f}", f"{spent.memory / (1 << 20):.0f}",
            f"{scaled:.0f} s" + (f" ≤ {LONGEST:.0f} {'ok' if scaled <= LONGEST else 'MISSED'}" if way == _OURS else ""),
            f"{less:.1f}" + (f" ≥ {wanted:.0f} {'ok' if less >= wanted else 'MISSED'}" if wanted else ""),
        ))  # fmt: skip
    head = ("way", "CPU s", "wall s", "MB per CPU s", "size ÷ source", "peak MiB", "scaled to 17.2 GB", "CPU ÷ ours")
    return table.markdown(head, rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", nargs="*", type=Path)
    parser.add_argument(
        "--levels", nargs="*", type=int, default=[1, 9], help="of the library; 9 is its default and slow"
    )
    parser.add_argument("--one", metavar="WAY", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        one(asked.one, *asked.layers)
        return
    layers = asked.layers or of_image()
    costs = {}
    with tempfile.TemporaryDirectory() as scratch:
        for way in (_OURS, _FALLBACK, *(_LIBRARY.format(level=level) for level in asked.levels)):
            costs[way] = sum((cost(way, layer, Path(scratch) / "copy") for layer in layers), Cost())
    compressed = sum(layer.stat().st_size for layer in layers)
    print(f"{len(layers)} layers, {costs[_OURS].plain / 1e6:.0f} MB, {compressed / 1e6:.0f} MB compressed\n")
    print(report(costs, compressed))


if __name__ == "__main__":
    main()
