"""The site of docker-compose.yml as its services are started, each of the machines a network namespace; what it lacks is Grafana.

Commands, mounted files and names of hosts are those of the compose file. Edge and parent know the public registries and no others, as
there: one of them is played by a docker-registry with a certificate that they are made to trust.
"""

import contextlib
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.interop.harness.clients import hashes
from tests.interop.harness.containerd import missing
from tests.interop.harness.process import Failure, Process, call, wait_for
from tests.interop.harness.registries import Image
from tests.setup.programs import program

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
REGISTRY = "registry-1.docker.io"
NEAR, FAR = "10.77.0.1", "10.77.0.2"
"""The edge and Prometheus are on one machine, the parent, Squid and the registry on the other."""

HOSTS = f"127.0.0.1 localhost\n{NEAR} edge\n{FAR} parent squid {REGISTRY}\n"
MADE = """
set -e
mount --bind {work}/hosts /etc/hosts
mount --bind {work}/conf.d /etc/squid/conf.d
mount --bind {work}/squid-log /var/log/squid
mount --bind {work}/scraping /etc/prometheus
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
ip link set lo up
touch {work}/{name}.made
exec sleep infinity
"""
GET = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5).read()"
POWERLESS = ("setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")  # cap_drop, no-new-privileges


@dataclass(frozen=True, slots=True)
class Machine:
    """A network of its own, and files where containers have them."""

    holder: Process
    work: Path

    def inside(self, *words: str | Path) -> tuple[str | Path, ...]:
        """A command, run there."""
        return ("nsenter", f"--target={self.holder.popen.pid}", "--net", "--mount", "--wd=/", "--", *words)

    def start(self, service: str, *program: str | Path) -> Process:
        """A service, by the words that the compose file has for it; ``program``: what stands for what its image begins with."""
        words = shlex.split(SERVICES[service]["command"])
        words = words[1:] if words[0] == "registry-proxy" else words
        for source, target in (volume.split(":")[:2] for volume in SERVICES[service].get("volumes", ())):
            if not source.startswith("."):  # a volume: somewhere that can be written
                words = [re.sub(rf"^(.+=)?{target}$", rf"\1{self.work}/{source}", word) for word in words]
        trust = {"SSL_CERT_FILE": str(self.work / "registry.crt"), "PYTHONPATH": str(ROOT)}
        return Process(service, self.inside(*program, *words), self.work, trust)


@contextlib.contextmanager
def machine(name: str, work: Path) -> Iterator[Machine]:
    """A machine that is not connected yet."""
    script = MADE.format(work=work, name=name)
    command = ("unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", script)
    with Process(name, command, work) as holder:
        holder.ready_when((work / f"{name}.made").exists)
        yield Machine(holder, work)


def connect(near: Machine, far: Machine) -> None:
    """A wire between two machines, with their addresses on it."""
    call("ip", "link", "add", "wire", "netns", str(near.holder.popen.pid), "type", "veth",
         "peer", "name", "wire", "netns", str(far.holder.popen.pid))  # fmt: skip
    for end, address in ((near, NEAR), (far, FAR)):
        call(*end.inside("ip", "address", "add", f"{address}/24", "dev", "wire"))
        call(*end.inside("ip", "link", "set", "wire", "up"))


@pytest.fixture
def files(work: Path, storage: Path, pushed: dict[str, Image]) -> Path:
    """What the machines need, laid out in the test's directory."""
    assert pushed
    (work / "hosts").write_text(HOSTS, encoding="utf-8")
    shutil.copytree("/etc/squid/conf.d", work / "conf.d")
    [mounted] = (volume.split(":") for volume in SERVICES["squid"]["volumes"])
    shutil.copy(ROOT / mounted[0], work / "conf.d" / Path(mounted[1]).name)
    assert Path(mounted[1]).parent == Path("/etc/squid/conf.d")
    (work / "conf.d" / "test.conf").write_text("shutdown_lifetime 0 seconds\n", encoding="utf-8")
    shutil.copytree(ROOT / "conf/prometheus", work / "scraping")
    settings = work / "scraping" / "prometheus.yml"
    settings.write_text(
        settings.read_text().replace("scrape_interval: 10s", "scrape_interval: 1s")
    )  # nobody waits here
    (work / "squid-log").mkdir()
    shutil.chown(work / "squid-log", "proxy", "proxy")
    work.chmod(0o755)
    call("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={REGISTRY}",
         "-addext", f"subjectAltName=DNS:{REGISTRY}",
         "-keyout", work / "registry.key", "-out", work / "registry.crt")  # fmt: skip
    config = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(storage)}, "maintenance": {"uploadpurging": {"enabled": False}}},
        "http": {"addr": f"{FAR}:443",
                 "tls": {"certificate": str(work / "registry.crt"), "key": str(work / "registry.key")}},
    }  # fmt: skip
    (work / "registry.json").write_text(json.dumps(config), encoding="utf-8")
    return work


def test_the_site_of_the_compose_file(files: Path, pushed: dict[str, Image]) -> None:
    """A pull by the edge comes from the parent through the Squid, which keeps the chunks; Prometheus sees both instances."""
    image = pushed["py"]
    ours = (*POWERLESS, sys.executable, "-m", "registry_proxy")
    with contextlib.ExitStack() as stack:
        near, far = stack.enter_context(machine("near", files)), stack.enter_context(machine("far", files))
        connect(near, far)
        start = stack.enter_context
        start(Process("registry", far.inside("docker-registry", "serve", files / "registry.json"), files))
        for service, machine_, words, ready in (
            ("squid", far, (), "http://squid:3128/squid-internal-static/icons/SN.png"),
            ("parent", far, ours, "http://parent:5000/readyz"),
            ("edge", near, ours, "http://edge:5000/readyz"),
            ("prometheus", near, ("prometheus",), "http://127.0.0.1:9090/-/ready"),
        ):
            start(machine_.start(service, *words)).ready_when(partial(done, near, sys.executable, "-c", GET, ready))
        call(*near.inside(program("crane"), "pull", "--insecure", "--format=oci", name(image), files / "copy"))
        assert missing(hashes((files / "copy/blobs/sha256").iterdir()), image.digests) == "{}"
        passed = (files / "squid-log" / "access.log").read_text(encoding="utf-8")
        assert passed.count("http://parent:5000/chunks/v1/sha256/") >= image.size >> 20
        for query in (
            'count(up{job="registry-proxy"} == 1) == 2',
            'registry_proxy_fetched_bytes_total{instance="parent:5000", upstream="docker.io"} > 0',
            'registry_proxy_source_asked_total{instance="edge:5000", source="parent", result="hit"} > 0',
            'sum(registry_proxy_source_asked_total{instance="edge:5000", source="upstream"} or vector(0)) == 0',
        ):
            wait_for(query, partial(asked, near, query))


def name(image: Image) -> str:
    """The image as it is pulled by the edge."""
    return f"127.0.0.1:5000/docker.io/{image.repository}:latest"


def done(where: Machine, *words: str | Path) -> bool:
    """Whether a command succeeds there."""
    try:
        call(*where.inside(*words))
    except Failure:
        return False
    return True


def asked(where: Machine, query: str) -> bool:
    """Whether Prometheus has anything for a query."""
    query_it = ("promtool", "query", "instant", "--format=json", "http://127.0.0.1:9090", query)
    return bool(json.loads(call(*where.inside(*query_it))))
