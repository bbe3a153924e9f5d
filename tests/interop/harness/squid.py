"""Debian's Squid with its packaged configuration and the lines of conf/squid: what a site runs."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.interop.harness.process import Process, answers, free_port

LINES = Path(__file__).parent.parent.parent.parent / "conf" / "squid" / "squid.conf"
PACKAGED = Path("/etc/squid/squid.conf")
OWN = """
pid_filename {directory}/squid.pid
cache_log {directory}/cache.log
access_log stdio:{directory}/access.log logformat=seen
cache_store_log none
netdb_filename none
pinger_enable off
visible_hostname {name}
shutdown_lifetime 0 seconds
buffered_logs off
"""


@dataclass(frozen=True, slots=True)
class Passed:
    """One request that went through: Squid's own word for how it was answered, its status, its URL."""

    result: str
    status: int
    url: str

    @property
    def is_hit(self) -> bool:
        """Whether the answer came from the cache, or from a request that was under way for somebody else."""
        return "HIT" in self.result


@dataclass
class Squid:
    """A running Squid that can be stopped and started again, empty."""

    directory: Path
    name: str
    address: str
    process: Process

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def passed(self) -> list[Passed]:
        """Every finished request, but for those of the harness."""
        lines = (self.directory / "access.log").read_text(encoding="utf-8").splitlines()
        found = [Passed(result, int(status), url) for result, status, url in (line.split(" ", 2) for line in lines)]
        return [each for each in found if "squid-internal" not in each.url]

    def chunks(self) -> list[Passed]:
        """Those for chunks of blobs."""
        return [each for each in self.passed() if re.search(r"/chunks/v1/sha256/[0-9a-f]{64}/\d+/\d+$", each.url)]

    def forget(self) -> None:
        """Starts counting anew."""
        os.truncate(self.directory / "access.log", 0)

    def start(self) -> None:
        """Starts it (again)."""
        command = [
            "squid",
            "-N",
            "-n",
            f"{self.name}{self.address.rpartition(':')[2]}",
            "-f",
            str(self.directory / "squid.conf"),
        ]
        self.process = Process(f"squid-{self.name}", command, self.directory)
        self.process.ready_when(lambda: answers(f"{self.url}/squid-internal-static/icons/SN.png", 200, 404))


@contextlib.contextmanager
def squid(directory: Path, name: str = "site", more: str = "") -> Iterator[Squid]:
    """A Squid; ``more``: lines of configuration of a test's own, which win over the others."""
    root = directory / f"squid-{name}"
    root.mkdir()
    address = f"127.0.0.1:{free_port()}"
    packaged = PACKAGED.read_text(encoding="utf-8")
    lines = f"logformat seen %Ss %03>Hs %ru\ninclude {LINES}\n{more}\n"
    text = packaged.replace("include /etc/squid/conf.d/*.conf", lines + OWN.format(directory=root, name=name))
    text = text.replace("http_port 3128", f"http_port {address}").replace("/var/spool/squid", str(root))
    (root / "squid.conf").write_text(text, encoding="utf-8")
    shutil.chown(root, "proxy", "proxy")
    root.chmod(0o755)
    running = Squid(root, name, address, process=None)  # type: ignore[arg-type]
    running.start()
    try:
        yield running
    finally:
        running.process.stop()
