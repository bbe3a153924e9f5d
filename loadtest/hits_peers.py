"""Those that serve the same image hot: started by the benchmark, on loopback, each with everything it needs already there."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from loadtest.farm import STATIC
from loadtest.noise import Noise
from registry_proxy.oci.content import OCI_MANIFEST
from registry_proxy.oci.digest import Digest
from tests.interop.harness.front import nginx
from tests.interop.harness.process import Failure, Process, answers, call, free_port
from tests.interop.harness.proxy import SOURCE, registry_proxy
from tests.interop.harness.registries import push_blob, registry
from tests.setup.cache import ROOT, once, run
from tests.setup.programs import BUILD, go

DISTRIBUTION: Final = "v3.1.2"
REPOSITORY: Final = "library/hot"
TAG: Final = "latest"
TREE: Final = Path(__file__).parent.parent
VCL: Final = """
vcl 4.1;
backend default {{ .host = "127.0.0.1"; .port = "{port}"; }}
sub vcl_backend_response {{ set beresp.ttl = 1h; }}
"""


@dataclass(frozen=True, slots=True)
class Stock:
    """What is served: the files below ``root`` as paths of the API, and a docker-registry's storage with the same."""

    blob: Digest
    size: int
    manifest: Digest
    root: Path
    storage: Path
    work: Path

    def path(self, what: str) -> str:
        """The path of ``blob``, ``tag`` or ``digest`` (the manifest by either)."""
        if what == "blob":
            return f"/v2/{REPOSITORY}/blobs/{self.blob}"
        return f"/v2/{REPOSITORY}/manifests/{TAG if what == 'tag' else self.manifest}"


@dataclass(frozen=True, slots=True)
class Server:
    """A running peer. ``query``: what its URLs end with."""

    address: str
    pid: int
    query: str = ""


@contextlib.contextmanager
def stock(size: int, work: Path) -> Iterator[Stock]:
    """An image of one blob of noise."""
    data = Noise(size, 7)[:]
    root, storage = work / "root", work / "storage"
    with registry(storage, work) as address:
        blob = Digest.parse(push_blob(address, REPOSITORY, data))
        config = Digest.parse(push_blob(address, REPOSITORY, b"{}"))
        described = [(config, 2, "application/vnd.oci.image.config.v1+json"), (blob, size, "application/octet-stream")]
        first, last = ({"mediaType": kind, "digest": str(digest), "size": length} for digest, length, kind in described)
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": first, "layers": [last]}
        text = json.dumps(manifest).encode()
        put = work / "manifest.json"
        put.write_bytes(text)
        call("curl", "-sSf", "-X", "PUT", "-H", f"Content-Type: {OCI_MANIFEST}", "--data-binary", f"@{put}",
             f"http://{address}/v2/{REPOSITORY}/manifests/{TAG}")  # fmt: skip
    found = Stock(blob, size, Digest.of(text), root, storage, work)
    for what, content in (("blob", data), ("tag", text), ("digest", text)):
        file = root / found.path(what).lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    yield found


@contextlib.contextmanager
def ours(on: Stock) -> Iterator[Server]:
    """The proxy with its defaults, its log into a file; the registry behind it is gone once the store is filled."""
    with (
        registry(on.storage, on.work) as upstream,
        registry_proxy(on.work / "proxy", {SOURCE: f"http://{upstream}"}) as proxy,
    ):
        query = f"?ns={SOURCE}"
        for what in ("tag", "digest", "blob"):
            call("curl", "-sSf", "-o", "/dev/null", f"{proxy.url}{on.path(what)}{query}")
        yield Server(proxy.address, proxy.process.popen.pid, query)


@contextlib.contextmanager
def distribution_2(on: Stock) -> Iterator[Server]:
    """Debian's docker-registry on its own storage, its access log off as its benchmark would have it."""
    yield from _distribution("docker-registry", on, "2")


@contextlib.contextmanager
def distribution_3(on: Stock) -> Iterator[Server]:
    """Distribution 3."""
    yield from _distribution(str(_distribution_3()), on, "3")


@contextlib.contextmanager
def distribution_server(work: Path, digest: Digest, size: int, repository: str) -> Iterator[tuple[str, int]]:
    """docker-registry with one sparse blob of that size, under a digest that it does not check: a blob's URL, and the process."""
    root = work / "storage" / "docker/registry/v2"
    link = root / "repositories" / repository / "_layers" / digest.algorithm / digest.hex / "link"
    data = root / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex / "data"
    for file in (link, data):
        file.parent.mkdir(parents=True)
    link.write_text(str(digest), encoding="ascii")
    data.touch()
    os.truncate(data, size)
    with registry(work / "storage", work) as address:
        found = subprocess.run(
            ["fuser", "-n", "tcp", address.rpartition(":")[2]], capture_output=True, text=True, check=False
        )
        yield f"http://{address}/v2/{repository}/blobs/{digest}", int(found.stdout.split()[0])


def _distribution_3() -> Path:
    """The program, built from the Go module proxy unless it is in the cache."""
    package = f"github.com/distribution/distribution/v3/cmd/registry@{DISTRIBUTION}"

    def build(new: Path) -> None:
        new.mkdir()
        run(go(), "install", package, environment={**BUILD, "GOBIN": str(new)})

    return once(ROOT / "programs" / f"distribution-{DISTRIBUTION}", build) / "registry"


def _distribution(program: str, on: Stock, version: str) -> Iterator[Server]:
    address = f"127.0.0.1:{free_port()}"
    config = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(on.storage)}, "cache": {"blobdescriptor": "inmemory"}},
        "http": {"addr": address},
    }
    file = on.work / f"distribution-{version}.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    quiet = {"OTEL_TRACES_EXPORTER": "none"}
    with Process(f"distribution-{version}", [program, "serve", file], on.work, quiet) as process:
        process.ready_when(lambda: answers(f"http://{address}/v2/"))
        yield Server(address, process.popen.pid)


@contextlib.contextmanager
def static(on: Stock) -> Iterator[Server]:
    """nginx with the same bytes in files."""
    address = f"127.0.0.1:{free_port()}"
    with nginx(STATIC.format(listen=address, root=on.root), address, on.work) as front:
        yield Server(address, front.process.popen.pid)


@contextlib.contextmanager
def varnish(on: Stock) -> Iterator[Server]:
    """Varnish with everything in memory, in front of that nginx."""
    with static(on) as behind:
        address = f"127.0.0.1:{free_port()}"
        file = on.work / "default.vcl"
        file.write_text(VCL.format(port=behind.address.rpartition(":")[2]), encoding="utf-8")
        scratch = on.work / "varnish"
        command: list[str | Path] = [
            "varnishd",
            "-F",
            "-a",
            address,
            "-f",
            file,
            "-n",
            scratch,
            "-s",
            "malloc,2G",
            "-j",
            "none",
        ]
        with Process("varnish", command, on.work) as process:
            process.ready_when(lambda: answers(f"http://{address}/v2/"))
            for what in ("tag", "digest", "blob"):
                call("curl", "-sSf", "-o", "/dev/null", f"http://{address}{on.path(what)}")
            yield Server(address, process.popen.pid)


@contextlib.contextmanager
def bare(on: Stock) -> Iterator[Server]:
    """aiohttp's low-level server with a handler that does nothing but write the bytes asked for."""
    address = f"127.0.0.1:{free_port()}"
    command: list[str | Path] = [sys.executable, "-m", "loadtest.hits_peers", address, on.root]
    with Process("bare", command, on.work, {"PYTHONPATH": str(TREE)}) as process:
        process.ready_when(lambda: answers(f"http://{address}{on.path('tag')}"))
        yield Server(address, process.popen.pid)


Peer = Callable[[Stock], AbstractContextManager[Server]]
PEERS: Final[dict[str, Peer]] = {
    "registry-proxy": ours,
    "bare aiohttp": bare,
    "nginx": static,
    "Varnish": varnish,
    "distribution 2.8": distribution_2,
    "distribution 3": distribution_3,
}


def missing() -> list[str]:
    """Programs of the peers that are not installed."""
    return [name for name in ("varnishd", "wrk", "nginx", "docker-registry") if shutil.which(name) is None]


async def _serve_bare(address: str, root: Path) -> None:
    """The bare handler: one range or a whole file of less than a few MiB by one write, else sendfile."""
    files = {
        f"/{file.relative_to(root)}": (file, os.open(file, os.O_RDONLY)) for file in root.rglob("*") if file.is_file()
    }

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        file, descriptor = files[request.path]
        asked = request.headers.get("Range")
        size = os.fstat(descriptor).st_size
        if asked is None and size > 1 << 20:
            return web.FileResponse(file)
        if asked is None:
            return web.Response(body=os.pread(descriptor, size, 0))
        first, _, last = asked[6:].partition("-")
        start, stop = int(first), int(last) + 1
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        return web.Response(status=206, body=os.pread(descriptor, stop - start, start), headers=headers)

    server = web.Server(handle)
    host, _, port = address.rpartition(":")
    await asyncio.get_running_loop().create_server(server, host, int(port), backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise Failure("HOST:PORT ROOT")
    asyncio.run(_serve_bare(sys.argv[1], Path(sys.argv[2])))
