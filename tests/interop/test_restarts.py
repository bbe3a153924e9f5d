"""The proxy goes away under a lazily started container, and comes back: the container notices nothing."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.harness.containerd import lazy_containerd
from tests.interop.harness.content import HASH_PYTHON, python_hash
from tests.interop.harness.front import Front
from tests.interop.harness.proxy import SOURCE, Proxy
from tests.interop.harness.registries import Image

ON_DEMAND = "noprefetch = true\nno_background_fetch = true\n"
PAUSE = "0.004"  # seconds between two files
EVERY = 150  # files between two restarts
RESTARTS = 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_restart_under_a_reader(
    number: signal.Signals,
    proxy: Proxy,
    site: Front,
    pushed: dict[str, Image],
    work: Path,
    figure: Callable[[str], None],
) -> None:
    """A container that reads file after file sees no error and the right bytes while the proxy is restarted four times."""
    assert site.url
    image = pushed["py-esgz"]
    reference = f"{SOURCE}/{image.repository}:latest"
    command = ("/usr/bin/python3", "-c", HASH_PYTHON, PAUSE)
    with lazy_containerd(work / "node", SOURCE, proxy.address, ON_DEMAND) as containerd:
        containerd.pull(reference)
        assert len(containerd.remote_mounts()) == len(image.layer_digests)
        printed = []
        with containerd.running(reference, "reader", *command) as reader:
            assert reader.stdout is not None
            for line in reader.stdout:
                printed.append(line.strip())
                if len(printed) % EVERY == 0 and len(printed) <= RESTARTS * EVERY:
                    proxy.process.signal(number)
                    proxy.process.popen.wait(30)
                    proxy.start()
            assert reader.wait(60) == 0, printed[-5:]
    assert printed[-1] == python_hash(image)
    assert len(printed) > (RESTARTS + 1) * EVERY
    figure(f"{RESTARTS} restarts by {number.name} under a reader of {len(printed) - 1} files: no error")
