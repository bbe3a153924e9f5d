"""Looks for inputs that break something: `python -m tests.fuzz [TARGET …] [--inputs N] [--keep]`.

Each target runs in a process of its own from the inputs that are kept, with a limit on the time of each input and on memory. An input that
breaks it is printed as a line for `tests/fuzz/corpus/TARGET.txt`: put it there, and the tests fail until its cause is mended.
Needs atheris (`pip install atheris`, Linux, Python 3.11 to 3.14).
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import corpus, targets

MEMORY = 1024  # MiB of the process, instrumentation and libFuzzer's own included
LONGEST = 8192  # bytes of an input
_STAT = re.compile(r"stat::(\w+): +(\d+)")
_BLOCKS = re.compile(rf"{targets.BLOCKS} \d+ (\d+)")


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of one target came to. `blocks`: memory of Python's early and at the end; `broke`: what it broke on."""

    inputs: int
    seconds: float
    peak: int
    blocks: tuple[int, int]
    broke: bytes | None
    output: str


def fuzz(target: str, inputs: int, directory: Path) -> Result:
    """Runs a target for so many inputs; what is new is left in `directory`/inputs."""
    seeds = directory / "inputs"
    seeds.mkdir()
    for number, data in enumerate(corpus.read(target)):
        (seeds / f"seed-{number}").write_bytes(data)
    started = time.monotonic()
    done = _process(
        target,
        str(seeds),
        f"-runs={inputs}",
        f"-artifact_prefix={directory}/broke-",
        "-print_final_stats=1",
        "-verbosity=1",
    )
    stats = dict(_STAT.findall(done.stderr))
    blocks = [int(found) for found in _BLOCKS.findall(done.stderr)] or [0]
    broke = next(iter(directory.glob("broke-*")), None)
    return Result(
        int(stats.get("number_of_executed_units", 0)), time.monotonic() - started, int(stats.get("peak_rss_mb", 0)),
        (blocks[0], blocks[-1]), broke.read_bytes() if broke else None, done.stdout[-3000:] + done.stderr[-3000:],
    )  # fmt: skip


def keep(target: str, directory: Path) -> None:
    """Adds to what is kept the inputs that libFuzzer found to reach something new, the smallest first."""
    new = [file.read_bytes() for file in (directory / "inputs").iterdir() if not file.name.startswith("seed-")]
    corpus.write(target, new)


def _process(target: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    limits = [f"-timeout={targets.SECONDS:.0f}", f"-rss_limit_mb={MEMORY}", f"-max_len={LONGEST}"]
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz.process", target, *arguments, *limits],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip


def main() -> int:
    """One line for each target; the exit status is 1 if one of them broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n", 1)[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(targets.names())} (default: all)")
    parser.add_argument("--inputs", type=int, default=100_000, help="for each target (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="add what reaches new code to what is kept")
    words = parser.parse_args()
    broken = False
    for target in words.targets or targets.names():
        with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
            result = fuzz(target, words.inputs, Path(directory))
            print(
                f"{target:20} {result.inputs:9,} inputs {result.seconds:7.1f} s, peak {result.peak:4} MiB, "
                f"blocks {result.blocks[0]:,} to {result.blocks[1]:,}",
                flush=True,
            )
            if result.broke is not None or not result.inputs:
                broken = True
                print(result.output, f"\n{target}.txt: {corpus.encode(result.broke or b'')}", flush=True)
            elif words.keep:
                keep(target, Path(directory))
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
