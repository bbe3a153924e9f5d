"""Programs as context managers: started with a log file, awaited with a limit, stopped by their own id."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

READY = 30.0  # seconds a program may take to be ready
STOPPING = 15.0  # seconds between asking a program to stop and killing it
LOGS: list[Path] = []  # of every program started, in order: a failed test shows the ones it touched


class Failure(Exception):
    """A program did not do what the test needs; the message has the end of its output."""


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, ready: Callable[[], bool], seconds: float = READY) -> None:
    """Returns once `ready()`; raises `Failure` after the time is over."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)


def answers(url: str, *accepted: int) -> bool:
    """Whether a GET has one of the statuses (200 if none is named)."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status in (accepted or (200,))
    except urllib.error.HTTPError as error:
        error.close()
        return error.code in accepted
    except OSError:
        return False


class Process:
    """One running program. `directory` takes its log."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        directory: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        LOGS.append(self.log)
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    def ready_when(self, ready: Callable[[], bool], seconds: float = READY) -> Self:
        """Waits for `ready()`, no longer than the program lives."""

        def alive_and_ready() -> bool:
            if self.popen.poll() is not None:
                raise Failure(f"{self.name} ended with {self.popen.returncode}:\n{tail(self.log)}")
            return ready()

        try:
            wait_for(f"{self.name} is ready", alive_and_ready, seconds)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Asks it to end, and kills it if it does not."""
        self.signal(signal.SIGTERM)
        try:
            self.popen.wait(STOPPING)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Ends it at once."""
        self.signal(signal.SIGKILL)
        self.popen.wait(STOPPING)

    def signal(self, number: int) -> None:
        """Sends a signal to the process, if it still runs."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def call(
    *command: str | Path,
    environment: Mapping[str, str] | None = None,
    seconds: float = 120.0,
) -> str:
    """A command's standard output; raises `Failure` with both outputs unless it succeeds in time."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Failure(
            f"{' '.join(words)}: not done within {seconds:.0f} s\n{error.stdout!r}\n{error.stderr!r}"
        ) from error
    if done.returncode != 0:
        raise Failure(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def isolated(*command: str | Path) -> tuple[str | Path, ...]:
    """The command with an empty /var/lib/containers of its own: no blob-info cache of earlier runs."""
    fresh = 'mkdir -p /var/lib/containers && mount -t tmpfs none /var/lib/containers && exec "$@"'
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", fresh, "sh", *command)


def tail(log: Path, characters: int = 4000) -> str:
    """The end of a log file."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - characters))
        return file.read().decode(errors="replace")


def complaints(log: Path, most: int = 8) -> str:
    """The first lines of a log that speak of an error, unfolded."""
    if not log.exists():
        return ""
    with log.open(encoding="utf-8", errors="replace") as file:
        lines = [line for line in file if '"level":"error"' in line or "level=error" in line or "level=fatal" in line]
    return "".join(lines[:most]).replace("\\n", "\n")


def mounts_below(root: Path) -> list[tuple[str, str]]:
    """Mount points below a directory and their file-system types, the innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split()[4].replace("\\040", " ")
        if point == str(root) or point.startswith(f"{root}/"):
            found.append((point, rest.split()[0]))
    return found[::-1]


def unmount_below(root: Path, seconds: float = 10.0) -> None:
    """Unmounts what is mounted below a directory, and what late clean-ups of container tools mount again meanwhile."""
    deadline = time.monotonic() + seconds
    while (found := mounts_below(root)) and time.monotonic() < deadline:
        for point, _ in found:
            subprocess.run(["umount", "--lazy", point], capture_output=True, check=False)
        time.sleep(0.1)


@contextlib.contextmanager
def unmounted_after(root: Path) -> Iterator[None]:
    """Whatever is still mounted below root after the block is unmounted."""
    try:
        yield
    finally:
        unmount_below(root)
