"""The main job: a container starts lazily, by the stargz snapshotter under runc, from a registry without byte ranges."""

import time
from collections.abc import Callable
from pathlib import Path

from tests.interop.harness.containerd import Containerd, lazy_containerd
from tests.interop.harness.front import Front, front
from tests.interop.harness.proxy import SOURCE, registry_proxy
from tests.interop.harness.registries import Image

NUMPY = ("/usr/bin/python3", "-c", "import numpy; print(int(numpy.arange(10).sum()))")
UNPACKED = 1 << 20  # bytes of plain files that a lazily mounted image may leave in the snapshotter's directories
BUSY = 60.0  # seconds that the snapshotter's background fetch may take to fall silent


def start_lazily(containerd: Containerd, image: Image, tag: str = "latest") -> float:
    """Pulls and runs `import numpy`, makes sure that it was lazy; seconds taken."""
    reference = f"{SOURCE}/{image.repository}:{tag}"
    started = time.monotonic()
    containerd.pull(reference)
    mounted = containerd.remote_mounts()
    unpacked = containerd.unpacked_bytes()
    assert containerd.run(reference, "numpy", *NUMPY).split() == ["45"]
    taken = time.monotonic() - started
    assert len(mounted) == len(image.layer_digests)  # every layer is a FUSE mount
    assert not containerd.blobs().keys() & image.layer_digests  # no layer was downloaded as a whole
    assert unpacked < UNPACKED  # and none was unpacked
    return taken


def settled(front: Front) -> int:
    """Bytes sent, once the background fetch has begun (it waits for five idle seconds) and nothing more comes."""
    deadline = time.monotonic() + BUSY
    before, sent = -1, front.sent()
    while sent != before and time.monotonic() < deadline:
        time.sleep(8)
        before, sent = sent, front.sent()
    return sent


def test_lazy_start_through_the_proxy(
    gitlab: Front, pushed: dict[str, Image], work: Path, figure: Callable[[str], None]
) -> None:
    """Pull and run are lazy, cost the range-less upstream the image once, and a second node needs no upstream at all."""
    image = pushed["py-esgz"]
    with registry_proxy(work / "proxy", {SOURCE: gitlab.url}) as proxy, front(proxy.address, work) as tap:
        with lazy_containerd(work / "one", SOURCE, tap.address) as containerd:
            seconds = start_lazily(containerd, image)
            ingress = tap.sent()
            settled(tap)
        figure(f"lazy start through the proxy: {seconds:.1f} s, node ingress {ingress / 1e6:.1f} MB until numpy is imported, "
               f"{tap.sent() / 1e6:.1f} MB with the background fetch; from the range-less upstream "
               f"{gitlab.sent() / 1e6:.1f} MB; image {image.size / 1e6:.1f} MB")  # fmt: skip
        assert gitlab.sent() <= 1.06 * image.size
        assert ingress < image.size
        gitlab.process.stop()
        with lazy_containerd(work / "two", SOURCE, proxy.address) as containerd:
            seconds = start_lazily(containerd, image)
        figure(f"lazy start of a second node, upstream down: {seconds:.1f} s")


def test_lazy_start_without_the_proxy(
    gitlab: Front, pushed: dict[str, Image], work: Path, figure: Callable[[str], None]
) -> None:
    """The same run straight from the range-less registry downloads the image over and over."""
    image = pushed["py-esgz"]
    with lazy_containerd(work / "direct", SOURCE, gitlab.address) as containerd:
        seconds = start_lazily(containerd, image)
        sent = settled(gitlab)
    figure(f"lazy start straight from the range-less registry: {seconds:.1f} s, {sent / 1e6:.1f} MB, "
           f"{sent / image.size:.1f} times the image")  # fmt: skip
    assert sent >= 1.5 * image.size  # twice when the registry is quick, thrice when it is slow


def test_lazy_start_without_background_fetch(
    site: Front, pushed: dict[str, Image], work: Path, figure: Callable[[str], None]
) -> None:
    """Without prefetch and background fetch a node gets a part of the image, and so does a proxy with a ranged upstream."""
    image = pushed["py-esgz"]
    settings = "noprefetch = true\nno_background_fetch = true\n"
    with (
        registry_proxy(work / "proxy", {SOURCE: site.url}) as proxy,
        front(proxy.address, work) as tap,
        lazy_containerd(work / "node", SOURCE, tap.address, settings) as containerd,
    ):
        seconds = start_lazily(containerd, image)
        figure(f"lazy start on demand only: {seconds:.1f} s, {tap.sent() / 1e6:.1f} MB to the node, "
               f"{site.sent() / 1e6:.1f} MB from upstream, image {image.size / 1e6:.1f} MB")  # fmt: skip
        assert tap.sent() < 0.7 * image.size
        assert site.sent() <= 1.06 * image.size
