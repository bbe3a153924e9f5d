"""A source over repositories of the tests' own, and over the two that the official tools have published."""

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from registry_proxy.config import CvmfsHttp, Forwarding
from registry_proxy.net.forward import ForwardProxies
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.plan.chunks import Span
from registry_proxy.sources.base import BlobPlace, Priority, Urgency
from registry_proxy.sources.cvmfs.source import CvmfsSource
from registry_proxy.telemetry.metrics import Metrics
from tests.fakes.cvmfs import CvmfsServer, Publisher

FIXTURES = Path(__file__).parents[4] / "shared" / "fixtures" / "cvmfs"


@dataclass
class Clock:
    """Seconds since the epoch, moved by hand."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def place(digest: Digest | bytes) -> BlobPlace:
    """Where a blob, or the blob with these bytes, is said to live."""
    digest = Digest.of(digest) if isinstance(digest, bytes) else digest
    return BlobPlace(SourceHost("registry.test"), Repository("a/b"), digest)


async def read(source: CvmfsSource, digest: Digest | bytes, span: Span | None = None, size: int | None = None) -> bytes:
    """The bytes of one delivery."""
    async with source.open(place(digest), span, size, Urgency(Priority.FOREGROUND)) as delivery:
        data = b"".join([piece async for piece in delivery])
        assert len(data) == len(delivery.span)
        return data


Opener = Callable[..., AbstractAsyncContextManager[CvmfsSource]]


@pytest.fixture(autouse=True)
def _no_blocking() -> Iterator[None]:
    with blockbuster_ctx("registry_proxy"):
        yield


@pytest.fixture
def clock() -> Clock:
    """The source's clock: the whitelists of ``publisher`` are made to fit it where a test cares."""
    return Clock(time.time())


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """An empty repository."""
    root = tmp_path / "repository"
    root.mkdir()
    return Publisher(root)


@pytest.fixture
async def server(publisher: Publisher) -> AsyncIterator[CvmfsServer]:
    """A server of the publisher's repository."""
    async with CvmfsServer(publisher.root) as server:
        yield server


@pytest.fixture
def open_source(tmp_path: Path, publisher: Publisher, clock: Clock) -> Opener:
    """Opens a source on servers; again with the same directory, as after a restart."""

    @asynccontextmanager
    async def opener(*urls: str, share: bool = True, **settings: object) -> AsyncIterator[CvmfsSource]:
        key = publisher.write_key(tmp_path / "master.pub")
        defaults = {"repository": publisher.name, "servers": urls, "keys": (key,)}
        directory = tmp_path / "cvmfs"
        config = CvmfsHttp(**(defaults | settings))  # type: ignore[arg-type]
        async with (
            ForwardProxies(Forwarding(timeout_direct=2)) as ways,  # type: ignore[arg-type]
            CvmfsSource(
                config, ways.fetch, directory, may_share=lambda _: share, metrics=Metrics(), clock=clock
            ) as source,
        ):
            yield source

    return opener


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The repositories of the official tools."""
    assert (FIXTURES / "repos").is_dir(), f"{FIXTURES} is missing: check out the shared directory beside this one"
    return FIXTURES


@pytest.fixture(scope="session")
def blobs(fixtures: Path) -> dict[Digest, int]:
    """Digest → size of what both fixture repositories hold."""
    lines = (line.split() for line in (fixtures / "blobs.txt").read_text().splitlines())
    return {Digest("sha256", digits): int(size) for digits, size in lines}


def sha256(data: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
