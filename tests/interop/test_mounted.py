"""A published tree read through a real FUSE mount, which hangs and dies under load."""

import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.interop.harness.bindfs import Mount, bindfs
from tests.interop.harness.front import Front
from tests.interop.harness.process import call, wait_for
from tests.interop.harness.proxy import SOURCE, Proxy, registry_proxy
from tests.interop.harness.registries import Image
from tests.interop.test_squid import blob_bytes, blob_url, crane_manifest, layer, read

LIMIT = 1.0  # seconds: cvmfs.time_limit
READERS = 6
CONFIG = """
[[cvmfs]]
path = "{path}"
time_limit = "{limit}s"
"""


@pytest.fixture
def tree(gitlab: Front, pushed: dict[str, Image], work: Path) -> Path:
    """The image published from an instance of its own."""
    name = f"{SOURCE}/{pushed['py'].repository}:latest"
    call(
        sys.executable, "-m", "registry_proxy", "publish", name, "--platform", "all", "--to", work / "tree",
        "--store", work / "publisher", "--listen", "127.0.0.1:1", f"--upstream={SOURCE}={gitlab.url}",
    )  # fmt: skip
    gitlab.forget()
    return work / "tree"


@pytest.fixture
def mount(tree: Path, work: Path) -> Iterator[Mount]:
    """That tree behind FUSE."""
    with bindfs(tree, work / "mount", work) as mounted:
        yield mounted


@pytest.fixture
def proxy(mount: Mount, gitlab: Front, work: Path) -> Iterator[Proxy]:
    """A cold instance that has it mounted."""
    config = work / "mounted.toml"
    config.write_text(CONFIG.format(path=mount.point, limit=LIMIT), encoding="utf-8")
    with registry_proxy(work / "proxy", {SOURCE: gitlab.url}, "--config", config) as running:
        yield running


def state(proxy: Proxy) -> str:
    """What the instance says of its mount."""
    with urllib.request.urlopen(f"{proxy.url}/stats", timeout=10) as response:
        [tier] = json.load(response)["tiers"]
    return str(tier["state"])


def crowd(proxy: Proxy, image: Image, during: Callable[[int], None]) -> list[tuple[str, int, float]]:
    """Several readers of the largest layer at once; `during` is called by the first."""
    digest, _ = layer(image)

    def one(number: int) -> tuple[str, int, float]:
        return read(blob_url(proxy, image, digest), during if number == 0 else lambda _: None)

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(one, range(READERS)))


def test_the_tree_serves_an_image_alone(
    proxy: Proxy, gitlab: Front, pushed: dict[str, Image], figure: Callable[[str], None]
) -> None:
    """Once it knows the manifest, an instance needs nobody but the mount: every blob, byte for byte."""
    image = pushed["py"]
    crane_manifest(proxy, image)
    gitlab.process.stop()
    for digest in image.layer_digests:
        began = time.monotonic()
        assert read(blob_url(proxy, image, digest))[:2] == (digest, image.digests[digest])
        seconds = time.monotonic() - began
        figure(f"mounted: {image.digests[digest] / 1e6:.0f} MB at {image.digests[digest] / seconds / 1e6:.0f} MB/s")
    assert state(proxy) == "works"


@pytest.mark.parametrize("how", ["hung", "killed"])
def test_the_mount_goes_away_under_load(
    how: str,
    proxy: Proxy,
    mount: Mount,
    gitlab: Front,
    pushed: dict[str, Image],
    figure: Callable[[str], None],
) -> None:
    """Clients see the right bytes and a pause no longer than the limit, once; afterwards the mount is skipped, and when it
    is back it is used again."""
    image = pushed["py"]
    digest, size = layer(image)
    crane_manifest(proxy, image)
    went: list[int] = []

    def end(sofar: int) -> None:
        if sofar > 2 << 20 and not went:
            went.append(sofar)
            mount.hang() if how == "hung" else mount.vanish()

    got = crowd(proxy, image, end)
    assert [one[:2] for one in got] == [(digest, size)] * READERS
    pause = max(one[2] for one in got)
    figure(f"mount {how} under {READERS} readers: longest pause {pause:.2f} s")
    assert went
    assert blob_bytes(gitlab) > 0
    assert pause < LIMIT + 1.5
    assert state(proxy).startswith("rests: ")
    small = min(image.layer_digests, key=lambda each: image.digests[each])
    assert read(blob_url(proxy, image, small))[2] < LIMIT
    if how == "hung":
        mount.wake()
        wait_for("the mount works again", lambda: state(proxy) == "works")


def test_an_instance_ends_although_its_mount_hangs(proxy: Proxy, mount: Mount, pushed: dict[str, Image]) -> None:
    """Nobody waits for a thread that hangs: SIGTERM ends the process in time."""
    image = pushed["py"]
    crane_manifest(proxy, image)
    mount.hang()
    digest, size = layer(image)
    assert read(blob_url(proxy, image, digest))[:2] == (digest, size)
    began = time.monotonic()
    proxy.process.stop()
    assert time.monotonic() - began < 5
    assert proxy.process.popen.returncode == 0


def test_a_dead_mount_at_the_start(mount: Mount, gitlab: Front, pushed: dict[str, Image], work: Path) -> None:
    """An instance starts and serves with a mount that is dead."""
    image = pushed["py"]
    digest, size = layer(image)
    mount.vanish()
    config = work / "mounted.toml"
    config.write_text(CONFIG.format(path=mount.point, limit=LIMIT), encoding="utf-8")
    with registry_proxy(work / "proxy", {SOURCE: gitlab.url}, "--config", config) as proxy:
        crane_manifest(proxy, image)
        assert read(blob_url(proxy, image, digest))[:2] == (digest, size)
        assert state(proxy).startswith("rests: ")
