"""Root file systems from Debian packages, by debootstrap and apt in a chroot, from the machine's own Debian mirror."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.setup.cache import SetupError, run

# The mounts live in a namespace of the command's own: nothing is left to unmount, whatever happens.
IN_CHROOT = 'mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && exec chroot "$@"'
QUIET = ("env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root")
LOADERS = ("lib64/ld-linux-*.so.*", "lib/ld-linux-*.so.*")  # the kernel opens it, where no trace sees it


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where the machine has its Debian packages from."""

    address: str
    codename: str


def mirror() -> Mirror:
    """The first Debian main archive in apt's sources."""
    listing = run("apt-get", "indextargets", "--format", "$(REPO_URI)|$(CODENAME)|$(LABEL)|$(COMPONENT)|$(SUITE)",
                  "Created-By: Packages")  # fmt: skip
    for line in listing.splitlines():
        address, codename, label, component, suite = line.split("|")
        if (label, component) == ("Debian", "main") and "-" not in suite:
            return Mirror(address, codename)
    raise SetupError("apt's sources name no Debian main archive; has `apt-get update` run?")


def bootstrap(root: Path) -> None:
    """A minimal Debian that apt can go on with."""
    source = mirror()
    run("debootstrap", "--variant=minbase", source.codename, root, source.address)
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    wanted = re.compile(r"Acquire::(https?|Check-|Retries)")
    options = [line for line in run("apt-config", "dump").splitlines() if wanted.match(line)]
    (root / "etc/apt/apt.conf.d/99build").write_text("\n".join([*options, ""]), encoding="utf-8")
    in_chroot(root, "apt-get", "update")


def install(root: Path, packages: tuple[str, ...]) -> None:
    """Debian packages with what they depend on, without what they recommend."""
    in_chroot(root, "apt-get", "install", "--yes", "--no-install-recommends", *packages)
    in_chroot(root, "apt-get", "clean")


def in_chroot(root: Path, *command: str) -> str:
    """Runs a command inside; returns its output."""
    return run("unshare", "--mount", "--propagation", "private", "sh", "-c", IN_CHROOT, "sh", root, *QUIET, *command)


def opened(root: Path, command: tuple[str, ...], scratch: Path) -> list[str]:
    """The files that a command opens, first opened first, symbolic links before what they point to.

    Python reads its sources then, as it does in the image, which ships nothing compiled.
    """
    trace = scratch / "trace"
    run("strace", "--follow-forks", "--successful-only", "--quiet=all", "--string-limit=4096", "-o", trace,
        "-e", "trace=execve,open,openat,readlink", "chroot", root, *command,
        environment={"PYTHONPYCACHEPREFIX": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})  # fmt: skip
    lines = trace.read_text(encoding="utf-8", errors="replace").splitlines()
    first = next(number for number, line in enumerate(lines) if f'execve("{command[0]}"' in line)
    paths = [found[1] for line in lines[first:] if (found := re.search(r'"(/[^"]*)"', line))]
    loaders = [f"/{path.relative_to(root)}" for pattern in LOADERS for path in root.glob(pattern)]
    ordered = [real for path in [command[0], *loaders, *paths] for real in chain(root, path)]
    return list(dict.fromkeys(ordered))


def chain(root: Path, path: str) -> Iterator[str]:
    """The links that are followed from a path inside root, and the file at the end, all relative to root."""
    at, rest = Path(), list(Path(path).parts[1:])
    for _ in range(200):
        if not rest:
            break
        part = rest.pop(0)
        if part == "..":
            at = at.parent
        elif (root / at / part).is_symlink():
            yield str(at / part)
            target = (root / at / part).readlink()
            at = Path() if target.is_absolute() else at
            rest = [*(piece for piece in target.parts if piece != "/"), *rest]
        else:
            at /= part
    if (root / at).is_file():
        yield str(at)
