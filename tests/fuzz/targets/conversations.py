"""Whole conversations: bytes on a connection, through aiohttp and the edge, before a heart in memory that has one image."""

import asyncio
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from registry_proxy.access.guard import OPEN
from registry_proxy.config import Config, Server, Store, Upstream
from registry_proxy.oci.content import OCI_MANIFEST
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import SourceHost
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.web.chunks import Chunks
from registry_proxy.web.server import Face, _Connections
from tests.web.memory import MemoryHeart, ServedManifest, memory_blob

HOST, REPOSITORY = SourceHost("docker.io"), "library/a"
BLOB = bytes(range(256)) * 2
MANIFEST = b'{"schemaVersion":2}'
MOST_TURNS = 200
"""Turns of the loop in which a conversation in memory has to be over."""

_ANSWER = re.compile(rb"HTTP/1\.[01] (\d{3}) [ -~]*\r\n")


def run(data: bytes) -> None:
    """No request is a mistake of ours: what is sent begins with a sound answer, none is a 500, and every handler comes to its end."""
    stage = _stage()
    sent = stage.loop.run_until_complete(_talk(stage, data))
    assert not sent or _ANSWER.match(sent)
    assert b"an internal error" not in sent
    assert b"HTTP/1.1 500" not in sent
    stage.heart.calls.clear()


@dataclass(frozen=True)
class _Stage:
    loop: asyncio.AbstractEventLoop
    heart: MemoryHeart
    server: _Connections
    face: Face


@cache
def _stage() -> _Stage:
    loop = asyncio.new_event_loop()
    return loop.run_until_complete(_built(loop))


async def _built(loop: asyncio.AbstractEventLoop) -> _Stage:
    heart = MemoryHeart()
    blob = memory_blob(BLOB, chunk=200)
    heart.blobs[HOST, REPOSITORY, str(blob.digest)] = heart.facts[str(blob.digest)] = blob
    digest = Digest.of(MANIFEST)
    for reference in ("latest", str(digest)):
        heart.manifests[HOST, REPOSITORY, reference] = ServedManifest(digest, OCI_MANIFEST, MANIFEST)
    heart.tag_names[HOST, REPOSITORY] = ["latest", "v1", "v2"]
    heart.repositories[HOST] = [REPOSITORY]
    config = Config(Store(Path("/nowhere")), {HOST: Upstream(("https://x.example",))}, Server())
    metrics, figures = Metrics(), _Figures()
    chunks = Chunks(heart, "registry-proxy-fuzz", config.upstreams, OPEN)
    face = Face(config, manifests=heart, discovery=heart, blobs=heart, chunks=chunks, metrics=metrics, figures=figures)
    server = _Connections(lambda request: face._edge.handle(None, request), config.server)
    return _Stage(loop, heart, server, face)


async def _talk(stage: _Stage, data: bytes) -> bytes:
    connection, transport = stage.server(), _Transport()
    connection.connection_made(transport)
    connection.data_received(data)
    quiet = turns = 0
    while quiet < 5:  # turns in which nothing is answered or said
        before = len(transport.sent)
        await asyncio.sleep(0)
        turns += 1
        quiet = quiet + 1 if not stage.face._edge.active and len(transport.sent) == before else 0
        assert turns < MOST_TURNS
    connection.connection_lost(None)
    for _ in range(3):
        await asyncio.sleep(0)
    return bytes(transport.sent)


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 4711), "sockname": ("127.0.0.1", 80)})
        self.sent = bytearray()
        self._closing = False

    def write(self, data: Any) -> None:
        self.sent += data

    def writelines(self, list_of_data: Any) -> None:
        self.sent += b"".join(list_of_data)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        """Everything has been said."""

    def resume_reading(self) -> None:
        """Everything has been said."""

    def close(self) -> None:
        self._closing = True

    abort = close


class _Figures:
    def unready(self) -> str | None:
        return None

    async def exposition(self) -> bytes:
        return b""

    async def stats(self) -> dict[str, object]:
        return {}
