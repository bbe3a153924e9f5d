"""Image layers as tar files: sorted, with clamped times, the difference to what earlier layers hold."""

import gzip
import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

GZIP_LEVEL = 6
LAST_TIME = 1_700_000_000  # what was written while building gets this modification time
UNSHIPPED = frozenset(  # directories that are shipped empty, and files that are not shipped
    {
        "dev", "proc", "run", "sys", "tmp", "var/tmp", "var/log", "var/cache", "var/lib/apt",
        "usr/share/doc", "usr/share/info", "usr/share/lintian", "usr/share/locale", "usr/share/man",
        "debootstrap", "etc/.pwd.lock", "etc/apt/apt.conf.d/99build", "etc/apt/sources.list", "etc/hostname",
        "etc/machine-id", "etc/resolv.conf", "usr/sbin/policy-rc.d", "var/lib/dpkg/status-old",
    }
)  # fmt: skip
STATIC = ".a"  # nor are static libraries: nothing here links

Seen = dict[str, tuple[int, ...]]

COMPILED = "__pycache__"  # holds the time of its making


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's blob: a file, its digest, its size, and the digest of the tar inside."""

    blob: Path
    digest: str
    size: int
    diff_id: str
    media_type: str = "application/vnd.oci.image.layer.v1.tar+gzip"
    annotations: Mapping[str, str] | None = None


class Hashing:
    """Writes to a file and hashes what passes."""

    def __init__(self, below: IO[bytes] | gzip.GzipFile) -> None:
        self.below = below
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.size += len(data)
        return self.below.write(data)

    def flush(self) -> None:
        self.below.flush()

    @property
    def digest(self) -> str:
        return f"sha256:{self.hash.hexdigest()}"


def pack(root: Path, before: Seen, blob: Path, started: float) -> tuple[Layer, Seen]:
    """The layer that turns `before` into what lies below root, and the new state; `started`: when building began."""
    now = {path: signature(root / path) for path in walk(root, "")}
    with blob.open("wb") as file:
        outer = Hashing(file)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=outer, mtime=0) as packer:
            inner = Hashing(packer)
            with tarfile.open(fileobj=inner, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
                for path in gone(before, now):
                    tar.addfile(tarfile.TarInfo(str(Path(path).with_name(f".wh.{Path(path).name}"))))
                for path in with_parents({path for path in now if before.get(path) != now[path]}):
                    add(tar, root, path, started)
    return Layer(blob, outer.digest, outer.size, inner.digest), now


def walk(root: Path, directory: str) -> Iterator[str]:
    """Every path below root that is shipped, parents first, in an order that does not depend on the machine."""
    for entry in sorted(os.scandir(root / directory), key=lambda entry: entry.name):
        path = f"{directory}/{entry.name}" if directory else entry.name
        is_directory = entry.is_dir(follow_symlinks=False)
        if entry.name == COMPILED or ((path in UNSHIPPED or path.endswith(STATIC)) and not is_directory):
            continue
        yield path
        if is_directory and path not in UNSHIPPED:
            yield from walk(root, path)


def signature(path: Path) -> tuple[int, ...]:
    """What makes a file another one; a directory's time is left out, since it changes with its entries."""
    is_ = path.lstat()
    time = 0 if stat.S_ISDIR(is_.st_mode) else is_.st_mtime_ns
    size = 0 if stat.S_ISDIR(is_.st_mode) else is_.st_size
    return (is_.st_mode, is_.st_uid, is_.st_gid, size, time)


def gone(before: Seen, now: Seen) -> list[str]:
    """The topmost paths that are no longer there."""
    missing = before.keys() - now.keys()
    return sorted(path for path in missing if str(Path(path).parent) not in missing)


def with_parents(paths: set[str]) -> list[str]:
    """The paths and their directories, parents first."""
    parents = {str(parent) for path in paths for parent in Path(path).parents if str(parent) != "."}
    return sorted(paths | parents)


def add(tar: tarfile.TarFile, root: Path, path: str, started: float) -> None:
    """Puts one file into the tar, under numeric owners and a clamped time."""
    info = tar.gettarinfo(root / path, arcname=path)
    if info is None:  # a socket
        return
    info.uname = info.gname = ""
    info.mtime = LAST_TIME if info.mtime >= started or info.isdir() else int(info.mtime)
    if info.isreg():
        with (root / path).open("rb") as content:
            tar.addfile(info, content)
    else:
        tar.addfile(info)
