"""A whole instance in this process, in front of a fake upstream."""

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry_proxy.app import Instance, assemble
from registry_proxy.config import Config, Cvmfs, Forwarding, Lazy, Parent, Policy, Server, Store, Upstream
from registry_proxy.config.units import Seconds, Size
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.ranges import Part
from registry_proxy.sources.base import BlobPlace
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.fakes.wire import Wire

HOST = SourceHost("registry.example")
CHUNK = 64 << 10


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress, the same every time."""
    return hashlib.shake_128(seed.to_bytes(4, "big")).digest(size)


@dataclass
class Bench:
    """An instance, its upstream, and short ways to read through it. ``now``: the wall clock of both."""

    instance: Instance
    upstream: FakeUpstream

    def place(self, digest: Digest, repository: str = REPOSITORY) -> BlobPlace:
        """Where a blob of the upstream lives."""
        return BlobPlace(HOST, Repository(repository), digest)

    @property
    def url(self) -> str:
        """Where the instance listens."""
        host, port = self.instance.face.addresses[0]
        return f"http://{host}:{port}"

    def wire(self) -> Wire:
        """A connection to the instance, if it listens."""
        return Wire(self.instance.face.addresses[0])

    async def read(self, digest: Digest, *spans: Span, open_ended: bool = False) -> bytes:
        """The bytes of these spans (none: of the whole blob), put together."""
        blob = await self.instance.blobs.open(self.place(digest))
        parts = [Part(span, open_ended) for span in spans or (Span(0, blob.size),)]
        out = bytearray()
        async with blob.read(parts) as reader:
            for index in range(len(parts)):
                async with aclosing(reader.pieces(index)) as pieces:
                    async for piece in pieces:
                        out += piece.read()
        return bytes(out)


Benches = Callable[..., AbstractAsyncContextManager[Bench]]


def benches(store: Path, upstream: FakeUpstream) -> Benches:
    """Makes instances over an upstream; a second one with the same store finds what the first one kept."""

    @asynccontextmanager
    async def make(
        *,
        limit: int = 1 << 30,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.time,
        chunk_size: int = CHUNK,
        listen: bool = False,
        address: str = "127.0.0.1:0",
        parents: tuple[str, ...] = (),
        forward_proxies: str = "DIRECT",
        cvmfs: tuple[Path, ...] = (),
        lazy: Lazy | None = None,
        htpasswd: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> AsyncIterator[Bench]:
        settings.setdefault("urls", (upstream.url,))
        config = Config(
            store=Store(path=store, limit=Size(limit), chunk_size=Size(chunk_size)),
            upstreams={HOST: Upstream(**settings)},
            policy=policy or Policy(),
            server=Server(listen=(address,), drain=Seconds(1)),
            parent=Parent(urls=parents),
            forward_proxies=Forwarding(groups=forward_proxies),
            lazy=lazy or Lazy(),
            htpasswd=dict(htpasswd or {}),
            cvmfs=tuple(Cvmfs(path=path, time_limit=Seconds(0.3)) for path in cvmfs),
        )
        async with assemble(config, clock) as instance:
            if listen:
                await instance.face.start()
            try:
                yield Bench(instance, upstream)
            finally:
                await instance.face.stop()

    return make
