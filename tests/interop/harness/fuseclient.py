"""The fixture repository mounted through FUSE by an independent CVMFS client, which can be stopped and killed."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.interop.harness.front import nginx
from tests.interop.harness.process import Process, free_port, mounts_below, unmount_below

REPOSITORY = "sha1.cvmfs.test"
FIXTURE = Path(__file__).parents[4] / "shared" / "fixtures" / "cvmfs" / "repos" / REPOSITORY
LINES = FIXTURE.parent.parent / "blobs.txt"
ATTEMPTS = 4
SERVER = "server {{ listen {listen}; root {root}; location = /v2/ {{ return 200; }} }}"


class Client:
    """The repository behind FUSE at ``point``."""

    def __init__(self, program: Path, url: str, directory: Path) -> None:
        self.point, cache = directory / "mount", directory / "cache"
        self.point.mkdir()
        cache.mkdir()
        self.process = Process("cvmfs-cli", [program, url, self.point, cache], directory)
        self.process.ready_when(lambda: bool(mounts_below(self.point)) and (self.point / "blobs").is_dir())

    def is_sound(self) -> bool:
        """Whether everything can be read. With an empty cache this client now and then spoils an object that two of its threads
        fetch at once, and then says EIO for as long as it runs."""
        try:
            for line in LINES.read_text(encoding="ascii").splitlines():
                self.blob(line.split()[0])
        except OSError:
            return False
        return True

    def hang(self) -> None:
        """From now on calls on the mount do not return."""
        self.process.signal(signal.SIGSTOP)

    def blob(self, digest: str) -> bytes:
        """A blob read through the mount; raises OSError."""
        hexes = digest.removeprefix("sha256:")
        return (self.point / "blobs" / "sha256" / hexes[:2] / hexes).read_bytes()

    def drop_kernel_cache(self) -> None:
        """What the kernel has read of the mount it reads again."""
        Path("/proc/sys/vm/drop_caches").write_text("1\n", encoding="ascii")

    def vanish(self) -> None:
        """The program dies; its mount point stays and answers nothing but errors."""
        self.process.kill()


@contextlib.contextmanager
def fuse_client(program: Path, directory: Path) -> Iterator[Client]:
    """The fixture, served by a web server and mounted."""
    site = directory / "www" / "cvmfs" / REPOSITORY
    site.mkdir(parents=True)
    for name in ("data", ".cvmfspublished", ".cvmfswhitelist"):
        (site / name).symlink_to(FIXTURE / name)
    for name in (
        ".cvmfs_last_snapshot",
        ".cvmfs_is_snapshotting",
    ):  # as a Stratum 1 has them: this client waits for both
        (site / name).write_text("Sat Nov 21 00:00:00 UTC 2026\n", encoding="ascii")
    address = f"127.0.0.1:{free_port()}"
    with nginx(SERVER.format(listen=address, root=directory / "www"), address, directory) as web:
        for attempt in range(ATTEMPTS):
            place = directory / f"fuse-{attempt}"
            place.mkdir()
            client = Client(program, f"{web.url}/cvmfs/{REPOSITORY}", place)
            try:
                if attempt == ATTEMPTS - 1 or client.is_sound():
                    yield client
                    return
            finally:
                client.process.kill()  # also where it was stopped; whoever hangs on it gets an error
                unmount_below(client.point)
