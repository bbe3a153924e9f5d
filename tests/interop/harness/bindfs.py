"""bindfs: a real FUSE mount over a directory, that can be stopped and killed."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.interop.harness.process import Process, mounts_below, unmount_below


class Mount:
    """A directory seen through FUSE at ``point``."""

    def __init__(self, behind: Path, point: Path, directory: Path) -> None:
        self.point = point
        point.mkdir()
        command: list[str | Path] = ["bindfs", "-f", "--no-allow-other", "-o", "ro", behind, point]
        self.process = Process("bindfs", command, directory)
        self.process.ready_when(lambda: bool(mounts_below(self.point)) and (self.point / "blobs").is_dir())

    def hang(self) -> None:
        """From now on calls on the mount do not return."""
        self.process.signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let them return."""
        self.process.signal(signal.SIGCONT)

    def vanish(self) -> None:
        """The program dies; its mount point stays and answers nothing but errors."""
        self.process.kill()


@contextlib.contextmanager
def bindfs(behind: Path, point: Path, directory: Path) -> Iterator[Mount]:
    """A directory mounted at ``point``; ``directory`` takes the log."""
    mount = Mount(behind, point, directory)
    try:
        yield mount
    finally:
        mount.process.kill()  # also where it was stopped; whoever hangs on it gets an error
        unmount_below(point)
