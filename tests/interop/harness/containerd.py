"""containerd, 1.6 from Debian or 2 from Go modules, with runc and, on demand, the stargz snapshotter; and its store."""

import contextlib
import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.interop.harness.process import (
    Failure,
    Process,
    call,
    mounts_below,
    unmounted_after,
)
from tests.setup.programs import program

NO_SERVER = "http://127.0.0.1:1"  # nothing listens there: whoever falls back from the mirror fails
RUN = 120.0  # seconds a command in a container may take
CONFIG_1 = """
version = 2
root = "{root}/root"
state = "{root}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]
[debug]
  level = "warn"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
"""
CONFIG_2 = """
version = 3
root = "{root}/root"
state = "{root}/state"
disabled_plugins = [
  "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs"
]
[debug]
  level = "warn"
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.transfer.v1.local"]
  config_path = "{hosts}"
  {transfer}
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux/amd64"
    snapshotter = "{snapshotter}"
{extra}
"""
STARGZ_PLUGIN = """
[proxy_plugins.stargz]
  type = "snapshot"
  address = "{root}/stargz.sock"
  [proxy_plugins.stargz.exports]
    root = "{root}/stargz"
    enable_remote_snapshot_annotations = "true"
"""
MIRROR = """
[[resolver.host."{source}".mirrors]]
  host = "{address}"
  insecure = true
  [resolver.host."{source}".mirrors.header]
    OCI-Namespace = "{source}"
"""


@dataclass(frozen=True, slots=True)
class Containerd:
    """A running containerd, its tool, its directories."""

    ctr: Path
    root: Path
    snapshotter: str
    process: Process

    @property
    def socket(self) -> Path:
        return self.root / "c.sock"

    def call(self, *words: str, seconds: float = RUN) -> str:
        """Runs ctr and returns what it prints."""
        return call(self.ctr, "--address", self.socket, *words, seconds=seconds)

    def pull(self, reference: str, seconds: float = RUN) -> None:
        """Pulls as a user would, with the hosts.toml of the mirror."""
        words = (
            "--hosts-dir",
            str(self.root / "hosts"),
            "--snapshotter",
            self.snapshotter,
            "--platform",
            "linux/amd64",
        )
        self.call("images", "pull", *words, reference, seconds=seconds)

    def run(self, reference: str, name: str, *command: str, seconds: float = RUN) -> str:
        """What a command prints in a new container under runc, which is removed afterwards."""
        return self.call("run", "--rm", "--snapshotter", self.snapshotter, reference, name, *command, seconds=seconds)

    @contextlib.contextmanager
    def running(self, reference: str, name: str, *command: str) -> Iterator["subprocess.Popen[str]"]:
        """A container in the foreground; its output can be read line by line."""
        words: list[str | Path] = [
            self.ctr,
            "--address",
            self.socket,
            "run",
            "--rm",
            "--snapshotter",
            self.snapshotter,
            reference,
            name,
        ]
        with subprocess.Popen(
            [*words, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as popen:
            try:
                yield popen
            finally:
                if popen.poll() is None:
                    with contextlib.suppress(Failure):
                        self.call("task", "kill", "--signal", "SIGKILL", name, seconds=20)
                    popen.terminate()

    def blobs(self) -> dict[str, int]:
        """What lies in the content store: digest → size; a blob that is not what its name says raises."""
        held = {}
        for file in (self.root / "root/io.containerd.content.v1.content/blobs/sha256").glob("*"):
            if hashlib.sha256(file.read_bytes()).hexdigest() != file.name:
                raise Failure(f"{file} is not what its name says")
            held[f"sha256:{file.name}"] = file.stat().st_size
        return held

    def remote_mounts(self) -> list[str]:
        """Layers that are FUSE mounts of the stargz snapshotter."""
        return [point for point, kind in mounts_below(self.root / "stargz") if kind.startswith("fuse")]

    def unpacked_bytes(self) -> int:
        """Bytes of files that lie unpacked in the stargz snapshotter's snapshots (mounts left out)."""
        printed = call("du", "--summarize", "--one-file-system", "--bytes", self.root / "stargz/snapshotter/snapshots")
        return int(printed.split()[0])


def hosts_toml(root: Path, mirrors: Mapping[str, str]) -> Path:
    """A hosts directory: source host → the URL of its only mirror."""
    for source, url in mirrors.items():
        directory = root / "hosts" / source
        directory.mkdir(parents=True, exist_ok=True)
        text = f'server = "{NO_SERVER}"\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n'
        (directory / "hosts.toml").write_text(text, encoding="utf-8")
    return root / "hosts"


@contextlib.contextmanager
def containerd_1(root: Path, mirrors: Mapping[str, str]) -> Iterator[Containerd]:
    """Debian's containerd 1.6."""
    root.mkdir(parents=True)
    hosts_toml(root, mirrors)
    text = CONFIG_1.format(root=root, socket=root / "c.sock")
    with _started(Path("/usr/bin/containerd"), root, text, "overlayfs") as running:
        yield running


@contextlib.contextmanager
def containerd_2(
    root: Path, mirrors: Mapping[str, str], *, parallel: bool = False, extra: str = "", snapshotter: str = "overlayfs"
) -> Iterator[Containerd]:
    """containerd 2; `parallel`: layers are fetched in several open-ended ranges at once."""
    root.mkdir(parents=True, exist_ok=True)
    transfer = "max_concurrent_downloads = 4\n  concurrent_layer_fetch_buffer = 1048576" if parallel else ""
    text = CONFIG_2.format(
        root=root,
        socket=root / "c.sock",
        hosts=hosts_toml(root, mirrors),
        transfer=transfer,
        snapshotter=snapshotter,
        extra=extra,
    )
    with _started(program("containerd"), root, text, snapshotter) as running:
        yield running


@contextlib.contextmanager
def lazy_containerd(
    root: Path, source: str, address: str, settings: str = "", docker: Path | None = None
) -> Iterator[Containerd]:
    """containerd 2 and the stargz snapshotter, both with host:port as the mirror of a source host; `docker`: where the snapshotter
    finds what `docker login` has left."""
    root.mkdir(parents=True)
    config = root / "stargz.toml"
    config.write_text(settings + MIRROR.format(source=source, address=address), encoding="utf-8")
    daemon: list[str | Path] = [
        program("stargzd"),
        "-address",
        root / "stargz.sock",
        "-root",
        root / "stargz",
        "-config",
        config,
    ]
    environment = {"DOCKER_CONFIG": str(docker)} if docker else {}
    plugin = STARGZ_PLUGIN.format(root=root)
    with unmounted_after(root), Process("stargz", daemon, root, environment) as process:
        process.ready_when((root / "stargz.sock").exists)
        with containerd_2(root, {source: f"http://{address}"}, extra=plugin, snapshotter="stargz") as running:
            yield running


@contextlib.contextmanager
def _started(binary: Path, root: Path, config: str, snapshotter: str) -> Iterator[Containerd]:
    file = root / "containerd.toml"
    file.write_text(config, encoding="utf-8")
    path = {"PATH": f"{binary.parent}:/usr/sbin:/usr/bin:/sbin:/bin"}
    ctr = binary.with_name("ctr")
    ask = [str(ctr), "--address", str(root / "c.sock"), "version"]

    def ready() -> bool:
        return subprocess.run(ask, capture_output=True, check=False, timeout=10).returncode == 0

    with unmounted_after(root), Process("containerd", [binary, "--config", file], root, path) as process:
        process.ready_when(ready)
        yield Containerd(ctr, root, snapshotter, process)


def missing(store: Mapping[str, int], wanted: Mapping[str, int]) -> str:
    """What a store lacks of an image, for a failed assertion."""
    return json.dumps({digest: size for digest, size in wanted.items() if store.get(digest) != size})
