"""podman, skopeo, crane, regctl and Docker, each with directories of its own."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.interop.harness.process import Failure, Process, call, isolated, unmounted_after
from tests.setup.programs import program

STORAGE = """
[storage]
driver = "overlay"
graphroot = "{root}/graph"
runroot = "{root}/run"
[storage.options]
pull_options = {{ enable_partial_images = "{partial}", use_hard_links = "false", ostree_repos = "" }}
"""
REGISTRIES = """
unqualified-search-registries = []
[[registry]]
location = "{source}"
[[registry.mirror]]
location = "{mirror}"
insecure = true
[[registry]]
location = "{address}"
insecure = true
"""


@dataclass(frozen=True, slots=True)
class Podman:
    """Debian's podman with a storage of its own."""

    root: Path

    def call(self, *words: str, seconds: float = 180.0) -> str:
        """Runs podman and returns what it prints."""
        environment = {
            "CONTAINERS_STORAGE_CONF": str(self.root / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.root / "registries.conf"),
            "TMPDIR": str(self.root / "tmp"),
        }
        tool = (
            "podman",
            "--runtime=runc",
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
            f"--tmpdir={self.root}/libpod",
        )
        return call(*tool, *words, environment=environment, seconds=seconds)

    def pull(self, reference: str) -> None:
        """Pulls an image."""
        self.call("pull", "--quiet", reference)

    def diff_ids(self, reference: str) -> list[str]:
        """The digests of the unpacked layers, as podman has checked them."""
        inspected = json.loads(self.call("image", "inspect", reference))
        return list(inspected[0]["RootFS"]["Layers"])

    def run(self, reference: str, *command: str) -> str:
        """What a command prints in a new container."""
        limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")  # podman's own may exceed the machine's
        return self.call("run", "--rm", "--network=none", *limits, reference, *command)


@contextlib.contextmanager
def podman(
    root: Path, source: str, address: str, *, mirror: str | None = None, partial: bool = False
) -> Iterator[Podman]:
    """podman with the proxy at host:port as the mirror of a source host; `mirror` may add a path to it."""
    (root / "tmp").mkdir(parents=True)
    registries = REGISTRIES.format(source=source, mirror=mirror or f"{address}/{source}", address=address)
    (root / "registries.conf").write_text(registries, encoding="utf-8")
    storage = STORAGE.format(root=root, partial=str(partial).lower())
    (root / "storage.conf").write_text(storage, encoding="utf-8")
    with unmounted_after(root):
        yield Podman(root)


def skopeo_copy(reference: str, target: Path) -> dict[str, int]:
    """Copies an image into a directory with skopeo; the digests and sizes of what arrived."""
    call(*isolated("skopeo", "copy", "--insecure-policy", "--quiet", "--preserve-digests", "--src-tls-verify=false",
                   f"docker://{reference}", f"dir:{target}"))  # fmt: skip
    return hashes(file for file in target.iterdir() if file.name != "version")


def crane_pull(reference: str, target: Path) -> dict[str, int]:
    """Pulls an image into an OCI layout with crane; the digests and sizes of what arrived."""
    call(program("crane"), "pull", "--insecure", "--format=oci", reference, target)
    return hashes((target / "blobs" / "sha256").iterdir())


def regctl_copy(reference: str, target: Path) -> dict[str, int]:
    """Copies an image into an OCI layout with regctl; the digests and sizes of what arrived."""
    host = reference.partition("/")[0]
    settings = target.with_name("regctl.json")
    settings.write_text(json.dumps({"hosts": {host: {"tls": "disabled", "hostname": host}}}), encoding="utf-8")
    environment = {"REGCTL_CONFIG": str(settings)}
    call(program("regctl"), "image", "copy", reference, f"ocidir://{target}", environment=environment)
    return hashes((target / "blobs" / "sha256").iterdir())


def hashes(files: Iterator[Path]) -> dict[str, int]:
    """The digest and size of each file."""
    found = {}
    for file in files:
        data = file.read_bytes()
        found[f"sha256:{hashlib.sha256(data).hexdigest()}"] = len(data)
    return found


@dataclass(frozen=True, slots=True)
class Docker:
    """A running dockerd."""

    socket: Path

    def call(self, *words: str, seconds: float = 180.0) -> str:
        """Runs the docker command line and returns what it prints."""
        return call("/usr/bin/docker", "--host", f"unix://{self.socket}", *words, seconds=seconds)

    def inspect(self, image: str) -> dict[str, Any]:
        """What dockerd says of an image."""
        return dict(json.loads(self.call("image", "inspect", image))[0])


@contextlib.contextmanager
def dockerd(root: Path, mirror: str) -> Iterator[Docker]:
    """Debian's dockerd with a mirror of Docker Hub, without any network of its own."""
    root.mkdir(parents=True)
    socket = root / "d.sock"
    (root / "daemon.json").write_text("{}", encoding="utf-8")
    command: list[str | Path] = [
        "/usr/sbin/dockerd", "--config-file", root / "daemon.json",
        "--data-root", root / "data", "--exec-root", root / "exec", "--pidfile", root / "pid",
        "--host", f"unix://{socket}", "--iptables=false", "--ip6tables=false", "--bridge=none",
        "--storage-driver=overlay2", "--registry-mirror", mirror,
    ]  # fmt: skip
    docker = Docker(socket)

    def ready() -> bool:
        try:
            docker.call("version", seconds=10)
        except Failure:
            return False
        return True

    with unmounted_after(root), Process("dockerd", command, root) as process:
        process.ready_when(ready, 60)
        yield docker
