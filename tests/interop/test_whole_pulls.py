"""Every client pulls the same images, cold and warm, through the proxy, and holds the upstream's bytes afterwards.

Warm means with the upstream gone: what the second pull brings came from the proxy's store alone.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.harness.clients import crane_pull, dockerd, podman, regctl_copy, skopeo_copy
from tests.interop.harness.containerd import Containerd, containerd_1, containerd_2, missing
from tests.interop.harness.front import Front, front
from tests.interop.harness.proxy import SOURCE, Proxy
from tests.interop.harness.registries import Image

NUMPY = ("/usr/bin/python3", "-c", "import numpy; print(int(numpy.arange(10).sum()))")
OVERHEAD = 1.02  # of the image, for the headers and what is asked twice
DROPPED = 1.25  # of the image: a client that drops connections leaves bytes behind in the sockets on the way
OPEN_ENDED = re.compile(r"bytes=[1-9][0-9]*-")
Copy = Callable[[str, Path], dict[str, int]]


def upstream_gone(site: Front, image: Image, overhead: float = OVERHEAD) -> None:
    """The first pull cost the upstream the image once; from now on it is down."""
    assert site.sent() <= overhead * image.size + 20_000
    site.process.stop()


def pull_by_containerd(containerd: Containerd, image: Image) -> None:
    """Pulls and compares the content store with the image, blob by blob."""
    containerd.pull(f"{SOURCE}/{image.repository}:latest")
    assert missing(containerd.blobs(), image.digests) == "{}"


@pytest.mark.parametrize("version", ["1.6", "2", "2 in parallel chunks"])
def test_containerd(version: str, proxy: Proxy, site: Front, pushed: dict[str, Image], work: Path) -> None:
    """containerd pulls the image through hosts.toml, cold and, with the upstream down, warm."""
    image = pushed["py"]
    parallel = version == "2 in parallel chunks"
    with front(proxy.address, work) as tap:
        for temperature in ("cold", "warm"):
            mirrors, root = {SOURCE: tap.url}, work / temperature
            with (
                containerd_1(root, mirrors)
                if version == "1.6"
                else containerd_2(root, mirrors, parallel=parallel) as containerd
            ):
                pull_by_containerd(containerd, image)
                if temperature == "cold":
                    assert parallel == any(OPEN_ENDED.fullmatch(request.range) for request in tap.requests())
                    upstream_gone(site, image, DROPPED if parallel else OVERHEAD)
                else:
                    assert containerd.run(f"{SOURCE}/{image.repository}:latest", "numpy", *NUMPY).split() == ["45"]


def test_podman(proxy: Proxy, site: Front, pushed: dict[str, Image], work: Path) -> None:
    """podman pulls through a mirror in registries.conf, cold and warm, and under the proxy's own name; the image runs."""
    image = pushed["py"]
    reference = f"{SOURCE}/{image.repository}:latest"
    with podman(work / "cold", SOURCE, proxy.address) as client:
        client.pull(reference)
        assert client.diff_ids(reference) == image.diff_ids
    upstream_gone(site, image)
    with podman(work / "warm", SOURCE, proxy.address) as client:
        client.pull(reference)
        assert client.diff_ids(reference) == image.diff_ids
        assert client.run(reference, *NUMPY).split() == ["45"]
    direct = f"{proxy.address}/{reference}"
    with podman(work / "direct", SOURCE, proxy.address) as client:
        client.pull(direct)
        assert client.diff_ids(direct) == image.diff_ids


@pytest.mark.parametrize("copy", [skopeo_copy, crane_pull, regctl_copy])
def test_copying_tools(copy: Copy, proxy: Proxy, site: Front, pushed: dict[str, Image], work: Path) -> None:
    """skopeo, crane and regctl copy the image under the proxy's own name, the source host as path, cold and warm."""
    image = pushed["py"]
    reference = f"{proxy.address}/{SOURCE}/{image.repository}:latest"
    cold = copy(reference, work / "cold")
    assert missing(cold, image.digests) == "{}"
    upstream_gone(site, image)
    assert copy(reference, work / "warm") == cold


def test_docker(proxy: Proxy, site: Front, pushed: dict[str, Image], work: Path) -> None:
    """dockerd pulls a Docker Hub name through registry-mirrors, cold and warm, and runs it."""
    image = pushed["py"]
    for temperature in ("cold", "warm"):
        with dockerd(work / temperature, proxy.url) as docker:
            docker.call("pull", "--quiet", f"{image.name}:latest")
            inspected = docker.inspect(image.name)
            assert inspected["RootFS"]["Layers"] == image.diff_ids
            assert inspected["RepoDigests"] == [f"{image.name}@{image.manifest_digest}"]
            if temperature == "cold":
                upstream_gone(site, image)
            else:
                assert docker.call("run", "--rm", "--network=none", image.name, *NUMPY).split() == ["45"]
