"""A directory outside of the tree where each thing is built once: a second run finds it, a broken run leaves nothing."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "registry-proxy-tests"
OUTPUT_SHOWN = 6000  # characters of a failed command's output


class SetupError(Exception):
    """Something the tests need could not be had; the message says what and how to see why."""


def once(target: Path, make: Callable[[Path], None]) -> Path:
    """`target`, made by `make(path to fill)` unless it is there; concurrent callers wait for the one that builds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / f".{target.name}.lock"):
        if target.exists():
            return target
        for left in target.parent.glob(f".{target.name}-????????"):  # by a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        started = time.monotonic()
        say(f"building {target.relative_to(ROOT)}")
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            make(scratch / "new")
            (scratch / "new").rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        say(f"built {target.relative_to(ROOT)} in {time.monotonic() - started:.0f} s")
    return target


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else, in this process or another, is inside a block with the same path."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(
    *command: str | Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    stdin: str | None = None,
) -> str:
    """What the command wrote to its standard output; a failure raises `SetupError` with the end of both outputs."""
    words: Sequence[str] = [str(word) for word in command]
    done = subprocess.run(
        words,
        env={**os.environ, **(environment or {})},
        cwd=directory,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        shown = (done.stdout + done.stderr)[-OUTPUT_SHOWN:]
        raise SetupError(f"exit status {done.returncode}: {' '.join(words)}\n{shown}")
    return done.stdout


def say(line: str) -> None:
    """One progress line; standard output is for results."""
    print(f"    {line}", file=sys.stderr, flush=True)
