"""Programs built from the crates registry, where the machine has a Rust that is new enough for them."""

import re
import shutil
from pathlib import Path
from typing import Final

from tests.setup.cache import ROOT, once, run

CVMFS: Final = ("cvmfs", "0.4.2", "cvmfs-cli")  # crate, version, program: an independent FUSE client for CVMFS
NEEDS: Final = (1, 88)  # of cargo, for that crate


def cargo() -> str | None:
    """A cargo that can build these, or None."""
    found = shutil.which("cargo")
    return found if found is not None and _version(run(found, "--version")) >= NEEDS else None


def cvmfs_client() -> Path | None:
    """The FUSE client, built if need be; None without a cargo that can build it."""
    builder = cargo()
    if builder is None:
        return None
    name, version, binary = CVMFS
    return once(ROOT / "programs" / f"{name}-{version}", lambda new: _install(builder, name, version, new)) / binary


def _install(builder: str, name: str, version: str, directory: Path) -> None:
    """Builds a crate, and keeps nothing but its programs."""
    scratch = directory.with_suffix(".build")
    run(
        builder,
        "install",
        name,
        "--version",
        version,
        "--locked",
        "--root",
        scratch,
        "--target-dir",
        scratch / "target",
    )
    (scratch / "bin").rename(directory)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])
