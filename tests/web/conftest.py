"""A face on a real socket, before a heart in memory."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry_proxy.access.guard import OPEN, Guard
from registry_proxy.config import Config, Server, Store, Upstream
from registry_proxy.oci.names import SourceHost
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.web.chunks import Chunks
from registry_proxy.web.server import Face
from tests.fakes.wire import Wire
from tests.web.memory import MemoryHeart

IDENTITY = "registry-proxy-test"
StartFace = Callable[..., Awaitable[Face]]


@pytest.fixture
def heart() -> MemoryHeart:
    return MemoryHeart()


@dataclass(frozen=True)
class MemoryFigures:
    """Figures of a face that stands alone."""

    metrics: Metrics
    unready: Callable[[], str | None]

    async def exposition(self) -> bytes:
        return self.metrics.exposition()

    async def stats(self) -> dict[str, int]:
        return {"chunks": 3}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def start(heart: MemoryHeart, metrics: Metrics, tmp_path: Path) -> AsyncIterator[StartFace]:
    """Starts faces with the given settings; they are stopped at the end."""
    faces = []

    async def start_(
        upstreams: dict[str, Upstream] | None = None,
        ready: Callable[[], str | None] = lambda: None,
        guard: Guard = OPEN,
        **server: object,
    ) -> Face:
        hosts = upstreams or {host: Upstream(urls=(f"https://{host}",)) for host in ("docker.io", "registry.test")}
        settings = Server(**{"listen": ("127.0.0.1:0",), "drain": 0.5, **server})  # type: ignore[arg-type]
        named = {SourceHost(host): upstream for host, upstream in hosts.items()}
        config = Config(store=Store(path=tmp_path), upstreams=named, server=settings)
        face = Face(
            config,
            manifests=heart,
            discovery=heart,
            blobs=heart,
            chunks=Chunks(heart, IDENTITY, named, guard),
            metrics=metrics,
            figures=MemoryFigures(metrics, ready),
            guard=guard,
        )
        await face.start()
        faces.append(face)
        return face

    yield start_
    for face in faces:
        await face.stop()


@pytest.fixture
async def face(start: StartFace) -> Face:
    return await start()


@pytest.fixture
async def wire(face: Face) -> AsyncIterator[Wire]:
    async with Wire(face.addresses[0]) as wire:
        yield wire
