"""The proxy itself, as a user starts it."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.interop.harness.process import Process, answers, free_port

SOURCE = "gitlab.example"  # the source host in the image names of the tests


class Proxy:
    """A running proxy that can be stopped, killed and started again at the same address with the same store.

    ``store``: where its store lies; None: in the directory that takes its log.
    """

    def __init__(
        self, directory: Path, upstreams: Mapping[str, str], *arguments: str | Path, store: Path | None = None
    ) -> None:
        self.directory = directory
        self.store = store or directory / "store"
        self.address = f"127.0.0.1:{free_port()}"
        named = [f"--upstream={name}={url}" for name, url in upstreams.items()]
        self.command: list[str | Path] = [
            sys.executable, "-m", "registry_proxy", "serve",
            "--listen", self.address, "--store", self.store, *named, *arguments,
        ]  # fmt: skip
        self.process = self.start()

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def log(self) -> str:
        """Everything it has logged, over all starts."""
        return (self.directory / "registry-proxy.log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> Process:
        """Starts it (again) and waits until it answers."""
        self.process = Process("registry-proxy", self.command, self.directory)
        return self.process.ready_when(lambda: answers(f"{self.url}/v2/"))


@contextlib.contextmanager
def registry_proxy(directory: Path, upstreams: Mapping[str, str], *arguments: str | Path) -> Iterator[Proxy]:
    """A proxy in front of upstreams, given as source host → URL."""
    directory.mkdir(parents=True, exist_ok=True)
    proxy = Proxy(directory, upstreams, *arguments)
    try:
        yield proxy
    finally:
        proxy.process.stop()
