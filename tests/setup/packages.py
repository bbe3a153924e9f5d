"""Debian's own programs, installed without starting a single service."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.setup.cache import SetupError, run, say

NEEDED = (
    "apache2-utils",
    "bindfs",
    "chromium",
    "conmon",
    "containerd",
    "debootstrap",
    "docker-registry",
    "docker.io",
    "fuse3",
    "iproute2",
    "iptables",
    "netavark",
    "nginx-light",
    "openssl",
    "podman",
    "prometheus",  # for promtool as well
    "runc",
    "skopeo",
    "squid",
    "strace",
    "systemd",  # for systemd-analyze
)
POLICY = Path("/usr/sbin/policy-rc.d")


def install() -> None:
    """Installs what is missing; needs root only then."""
    missing = [name for name in NEEDED if not installed(name)]
    if not missing:
        return
    if os.geteuid() != 0:
        raise SetupError(f"these Debian packages are missing and only root can install them: {' '.join(missing)}")
    say(f"installing {' '.join(missing)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "update", environment=quiet)
    with no_service_starts():
        run("apt-get", "install", "--yes", "--no-install-recommends", *missing, environment=quiet)


def installed(name: str) -> bool:
    """Whether dpkg has the package, configured."""
    asked = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Abbrev}", name], capture_output=True, text=True)
    return asked.stdout.startswith("ii")


@contextlib.contextmanager
def no_service_starts() -> Iterator[None]:
    """Inside the block Debian's packages may not start services; afterwards the machine's own policy is back."""
    policy = POLICY.read_bytes() if POLICY.exists() else None
    POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if policy is None:
            POLICY.unlink()
        else:
            POLICY.write_bytes(policy)
