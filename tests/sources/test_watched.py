"""An eye on a source: what was asked, what came of it, and its state."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from registry_proxy.errors import BlobUnknown, NotSoon, RegistryProxyError, UpstreamUnreachable
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.plan.chunks import Span
from registry_proxy.sources.base import BlobPlace, Priority, Urgency
from registry_proxy.sources.watched import Watched
from registry_proxy.telemetry.metrics import Metrics

PLACE = BlobPlace(SourceHost("a.example"), Repository("a"), Digest.of(b"x"))


@dataclass
class Body:
    """One byte, or trouble in the middle."""

    trouble: RegistryProxyError | None
    span: Span = field(default_factory=lambda: Span(0, 1))
    total: int = 1
    origin: str = "o"
    ranged: bool = True
    proves: bool = False
    waited: float = 0.0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The byte."""
        if self.trouble is not None:
            raise self.trouble
        yield b"x"


@dataclass
class Scripted:
    """Raises on entry or in mid-body as it is told."""

    entry: RegistryProxyError | None = None
    middle: RegistryProxyError | None = None
    name: str = "parent"
    doubted: list[Digest] = field(default_factory=list)

    def doubt(self, digest: Digest) -> None:
        """Note it."""
        self.doubted.append(digest)

    @asynccontextmanager
    async def open(
        self, place: BlobPlace, span: Span | None, size: int | None, urgency: Urgency
    ) -> AsyncIterator[Body]:
        """The body."""
        if self.entry is not None:
            raise self.entry
        yield Body(self.middle)


async def ask(source: Watched) -> None:
    """One delivery, taken to its end."""
    async with source.open(PLACE, None, None, Urgency(Priority.FOREGROUND)) as delivery:
        assert [data async for data in delivery] == [b"x"]


@pytest.mark.parametrize(
    ("entry", "middle", "result", "up"),
    [
        (None, None, "hit", 1),
        (BlobUnknown("no"), None, "miss", 1),
        (NotSoon("later"), None, "miss", 1),
        (UpstreamUnreachable("dead"), None, "failure", 0),
        (None, UpstreamUnreachable("cut"), "failure", 0),
    ],
)
async def test_every_outcome_is_counted_once(
    entry: RegistryProxyError | None, middle: RegistryProxyError | None, result: str, up: int
) -> None:
    """Hits, misses and failures; only trouble marks the source, and the reader sees what the source said."""
    metrics = Metrics()
    source = Watched(Scripted(entry, middle), metrics)
    said = entry or middle
    if said is None:
        await ask(source)
    else:
        with pytest.raises(type(said)):
            await ask(source)
    stats = source.stats()
    assert {name: stats[name] for name in ("hit", "miss", "failure")} == {"hit": 0, "miss": 0, "failure": 0} | {
        result: 1
    }
    assert metrics.registry.get_sample_value("registry_proxy_source_up", {"source": "parent"}) == up
    labels = {"source": "parent", "result": result}
    assert metrics.registry.get_sample_value("registry_proxy_source_asked_total", labels) == 1


async def test_a_source_recovers_with_its_next_delivery() -> None:
    """The state is that of the last exchange, with the trouble in words."""
    scripted = Scripted(entry=UpstreamUnreachable("the wire is cut"))
    metrics = Metrics()
    ticks = iter([0.0, 10.0, 10.5])  # a question that failed, one that had its first bytes after half a second
    source = Watched(scripted, metrics, lambda: {"ways": 1}, lambda: next(ticks))
    with pytest.raises(UpstreamUnreachable):
        await ask(source)
    assert source.stats()["state"] == "trouble: the wire is cut"
    scripted.entry = None
    await ask(source)
    figures = {"hit": 1, "miss": 0, "failure": 1, "bytes": 1, "seconds": 0.5}
    assert source.stats() == {"name": "parent", "state": "works", **figures, "ways": 1}
    assert metrics.registry.get_sample_value("registry_proxy_source_up", {"source": "parent"}) == 1
    source.doubt(PLACE.digest)
    assert scripted.doubted == [PLACE.digest]
