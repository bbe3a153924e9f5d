"""The store's directory: private, on a local file system, of a known format, and used by one instance at a time.

``opened`` gives a ``Directory`` for as long as the lock is held. What it refuses it refuses with StoreUnusable, whose text says
what to do. ``state`` in it says whether the accounts were saved by a clean stop, and bounds the bytes on disk if not.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from registry_proxy.errors import StoreUnusable
from registry_proxy.tiers import walk
from registry_proxy.tiers.layout import Layout

VERSION: Final = 1

_NETWORK: Final = frozenset(
    [
        "acfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fhgfs",
        "fuse",
        "gfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
        "wekafs",
    ]
)
_LOCAL_FUSE: Final = frozenset({"fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.bindfs", "fuse.lxcfs", "fuse.mergerfs"})
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


class Format(msgspec.Struct, frozen=True):
    """What the format file says. ``chunk_size``: bytes of every chunk but a blob's last."""

    version: int
    chunk_size: int


class State(msgspec.Struct, frozen=True):
    """What the last instance left. ``clean``: it stopped in order; ``bytes``: on disk, or at most so many if it did not."""

    clean: bool
    bytes: int


@dataclass(frozen=True, slots=True)
class Directory:
    """A locked store directory. ``left``: the state found; None if there was none that can be read."""

    layout: Layout
    left: State | None
    chunk_size: int
    lock: "Lock"

    def write_state(self, state: State) -> None:
        """Replace the state; raises OSError.

        It is on disk when this returns: the accounts would be believed after a power cut that left a clean state of before.
        """
        _replace(self.layout.state, msgspec.json.encode(state))

    def make_again(self) -> None:
        """Make a directory that was removed under the running instance, and lock it anew; raises OSError or StoreUnusable."""
        _create(self.layout.root)
        self.lock.take_again()
        _check_format(self.layout, self.chunk_size)
        for needed in (self.layout.chunks, self.layout.temporary):
            needed.mkdir(mode=0o700, exist_ok=True)


@contextlib.contextmanager
def opened(path: Path, chunk_size: int) -> Iterator[Directory]:
    """Create the directory if need be, lock it, check it, sweep what a killed instance left. Blocks: run it in a thread."""
    layout = Layout(path.absolute())
    _refuse_network(layout.root, Path("/proc/self/mountinfo"))
    _create(layout.root)
    if not layout.format.exists():
        _refuse_foreign(layout)
    lock = Lock(layout)
    with contextlib.ExitStack() as stack:
        stack.callback(lock.release)
        fresh = _check_format(layout, chunk_size)
        walk.sweep(layout.temporary)
        for needed in (layout.chunks, layout.temporary):
            with contextlib.suppress(OSError):  # a read-only store still serves what it has
                needed.mkdir(mode=0o700, exist_ok=True)
        left = State(clean=True, bytes=0) if fresh else _read_state(layout.state)
        directory = Directory(layout, left, chunk_size, lock)
        if left is not None and left.clean:
            with contextlib.suppress(OSError):
                directory.write_state(State(clean=False, bytes=left.bytes))
        yield directory


def file_system(mountinfo: str, path: str) -> str:
    """The type of the file system that an absolute path lies on, after proc(5), "/proc/pid/mountinfo"."""
    best, kind = "", ""
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split(" ")
        if not dash or len(fields) < 5:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two mounts on one place the later one is seen
            best, kind = point, after.split(" ")[0]
    return kind


def is_network(kind: str) -> bool:
    """True for a file system type whose files live on another machine, or cannot be known not to."""
    return kind in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)


def nearest(path: Path) -> Path:
    """The path, or the nearest directory above it that is there, as far as this user may look."""
    seen = (each for each in (path, *path.parents) if os.path.exists(each))  # noqa: PTH110 - Path's raises PermissionError
    return next(seen, Path("/"))


def _refuse_network(root: Path, mountinfo: Path) -> None:
    try:
        mounts = mountinfo.read_text(errors="surrogateescape")
    except OSError:
        return
    kind = file_system(mounts, str(nearest(root).resolve()))
    if is_network(kind):
        raise StoreUnusable(
            f"store {root} is on a network file system ({kind}), where locks and speed cannot be relied on: "
            "give the store a directory on a local disk (store.path, or --store DIR)"
        )


def _create(root: Path) -> None:
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = root.stat()
    except OSError as error:
        raise StoreUnusable(
            f"store {root} cannot be created ({error.strerror}): choose another with --store DIR"
        ) from error
    if found.st_uid != os.geteuid():
        raise StoreUnusable(
            f"store {root} belongs to user {found.st_uid}: run as that user, or choose another with --store DIR"
        )


class Lock:
    """The lock on a store's directory, which keeps other instances out for as long as the directory is there."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._descriptor = _taken(layout)

    def holds(self) -> bool:
        """False once the directory, or the lock's file in it, was removed: another instance may be there by now."""
        try:
            there = os.stat(self._layout.lock)  # noqa: PTH116
        except OSError as error:
            return not isinstance(error, FileNotFoundError)
        return os.path.samestat(there, os.fstat(self._descriptor))

    def take_again(self) -> None:
        """Lock the directory that is there now; raises StoreUnusable."""
        descriptor = _taken(self._layout)
        os.close(self._descriptor)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others in."""
        os.close(self._descriptor)


def _taken(layout: Layout) -> int:
    descriptor = _open_lock(layout)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreUnusable(
            f"store {layout.root} is in use by another instance (process {owner}): "
            "stop that one, or choose another with --store DIR"
        ) from error
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _open_lock(layout: Layout) -> int:
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):  # the second for a disk that has become read-only
        try:
            return os.open(layout.lock, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            failure = error
    raise StoreUnusable(
        f"store {layout.root} cannot be locked ({failure.strerror}): make it writable, or choose another with --store DIR"
    ) from failure


def _check_format(layout: Layout, chunk_size: int) -> bool:
    """True if the store is a new one, which gets its format file; raises StoreUnusable."""
    try:
        found = msgspec.json.decode(layout.format.read_bytes(), type=Format)
    except FileNotFoundError:
        _begin(layout, chunk_size)
        return True
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreUnusable(
            f"store {layout.root}: its format file cannot be read ({error}): empty the directory to start anew"
        ) from error
    if found.version != VERSION:
        raise StoreUnusable(
            f"store {layout.root} has format version {found.version}, this program writes {VERSION}: "
            "empty the directory, or choose another with --store DIR"
        )
    if found.chunk_size != chunk_size:
        raise StoreUnusable(
            f"store {layout.root} has chunks of {found.chunk_size} bytes, the configuration says {chunk_size}: "
            f"set store.chunk_size to {found.chunk_size}, empty the directory, or choose another with --store DIR"
        )
    _make_private(layout.root)
    return False


def _refuse_foreign(layout: Layout) -> None:
    foreign = {entry.name for entry in walk.entries(layout.root)} - {layout.lock.name, layout.format.name + ".new"}
    if foreign:
        raise StoreUnusable(
            f"store {layout.root} is not empty and not a store (it has {min(foreign)!r}): choose another with --store DIR"
        )


def _begin(layout: Layout, chunk_size: int) -> None:
    _make_private(layout.root)
    try:
        _replace(layout.format, msgspec.json.encode(Format(VERSION, int(chunk_size))))
    except OSError as error:
        raise StoreUnusable(
            f"store {layout.root} cannot be written ({error.strerror}): make room, or choose another"
        ) from error


def _make_private(root: Path) -> None:
    if root.stat().st_mode & 0o077:
        try:
            root.chmod(0o700)
        except OSError as error:
            raise StoreUnusable(
                f"store {root} can be entered by other users ({error.strerror}): chmod 700 it"
            ) from error


def _read_state(path: Path) -> State | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _replace(path: Path, content: bytes) -> None:
    """Write a small file so that it is seen whole or not at all, also after a power cut."""
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
