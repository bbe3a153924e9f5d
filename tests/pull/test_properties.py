"""Any ranges, any split of the upstream's body, any interleaving of readers, evictions and failures: true bytes or a failure."""

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry_proxy.config import Policy, Store, Upstream
from registry_proxy.errors import ContentCorrupt, RegistryProxyError, UpstreamBroken, UpstreamUnreachable
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.ranges import Part
from registry_proxy.pull import flight as flight_module
from registry_proxy.pull.blobs import Blobs
from registry_proxy.sources.base import BlobPlace, Urgency
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.tiers.store import open_store
from tests.fakes.instance import noise

CHUNK = 64 << 10
HOST = SourceHost("registry.example")


@dataclass
class Body:
    """A delivery in pieces of drawn sizes that may break."""

    data: bytes
    span: Span
    total: int
    ranged: bool
    splits: list[int]
    cut: int | None
    origin: str = "fake"
    proves: bool = True
    waited: float = 0.0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The pieces; UpstreamUnreachable where the body is cut."""
        at, sent, sizes = self.span.start, 0, itertools.cycle(self.splits)
        while at < self.span.stop:
            if self.cut is not None and sent >= self.cut:
                raise UpstreamUnreachable("cut")
            piece = self.data[at : min(at + next(sizes), self.span.stop)]
            at += len(piece)
            sent += len(piece)
            await asyncio.sleep(0)
            yield piece


@dataclass
class Scripted:
    """A source that goes by a script: one entry per exchange, the last one for ever."""

    blob: bytes
    ranged: bool
    splits: list[int]
    script: list[str]
    name: str = "upstream"
    opened: int = field(default=0)

    def doubt(self, digest: Digest) -> None:
        """Nothing is remembered."""

    async def may_share(self, place: BlobPlace) -> bool:
        """Nothing is private."""
        return True

    @asynccontextmanager
    async def open(
        self, place: BlobPlace, span: Span | None, size: int | None, urgency: Urgency
    ) -> AsyncIterator[Body]:
        """The next exchange of the script."""
        step = self.script[min(self.opened, len(self.script) - 1)]
        self.opened += 1
        await asyncio.sleep(0)
        if step == "down":
            raise UpstreamUnreachable("down")
        if step == "broken":
            raise UpstreamBroken("broken")
        data = noise(len(self.blob), 99) if step == "wrong" else self.blob
        span = span if self.ranged and span is not None else Span(0, len(data))
        cut = len(span) // 2 if step == "cut" else None
        yield Body(data, span, len(data), self.ranged, self.splits, cut)


class Anybody:
    """Lets everybody in."""

    def __init__(self, size: int) -> None:
        self._size = size

    async def admit(self, place: BlobPlace, *, certain: bool) -> tuple[int, bool]:
        """Every blob has the same size."""
        return self._size, True

    async def proved(self, place: BlobPlace, size: int, *, told: bool) -> None:
        """Nothing is remembered."""

    async def contested(self, place: BlobPlace) -> None:
        """Nothing was remembered."""


async def read(blobs: Blobs, place: BlobPlace, spans: list[Span], *, open_ended: bool) -> bytes:
    """What a client would get."""
    blob = await blobs.open(place)
    out = bytearray()
    async with blob.read([Part(span, open_ended) for span in spans]) as reader:
        for index in range(len(spans)):
            async with aclosing(reader.pieces(index)) as pieces:
                async for piece in pieces:
                    out += piece.read()
    return bytes(out)


async def play(
    source: Scripted, size: int, reads: list[list[tuple[float, float]]], drops: int, limit: int, *, open_ended: bool
) -> None:
    """Run all readers at once, with evictions in between, and check every answer; then that the cache is right."""
    place = BlobPlace(HOST, Repository("a/b"), Digest.of(source.blob))
    with tempfile.TemporaryDirectory() as directory:
        settings_ = Store(path=Path(directory) / "store", limit=limit, chunk_size=CHUNK)
        async with open_store(settings_) as (store, records):
            blobs = Blobs(
                Anybody(size), store, records, (source,), {HOST: Upstream(urls=("http://x",))}, Policy(), Metrics()
            )

            async def reader(fractions: list[tuple[float, float]]) -> None:
                spans = [Span(int(a * (size - 1)), max(int(a * (size - 1)) + 1, int(b * size))) for a, b in fractions]
                whole = spans == [Span(0, size)]
                try:
                    got = await read(blobs, place, spans, open_ended=open_ended and len(spans) == 1)
                except RegistryProxyError:
                    return
                if whole or "wrong" not in source.script:
                    assert got == b"".join(source.blob[span.start : span.stop] for span in spans)

            async def evictions() -> None:
                for _ in range(drops):
                    await asyncio.sleep(0.001)
                    await store.drop(place.digest)

            try:
                async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                    group.create_task(evictions())
                    for one in reads:
                        group.create_task(reader(one))
                tainted = "wrong" in source.script
                source.script, source.opened = ["good"], 0
                try:
                    healed = await read(blobs, place, [Span(0, size)], open_ended=False)
                except ContentCorrupt:
                    assert tainted  # wrong bytes of before are found when the blob completes, and dropped: once
                    healed = await read(blobs, place, [Span(0, size)], open_ended=False)
                assert healed == source.blob
            finally:
                await blobs.close()


fractions = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).map(tuple)


@pytest.fixture(autouse=True, scope="module")
def _no_pauses() -> object:
    """Resume at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flight_module, "_PAUSES", (0.0, 0.0, 0.0))
        yield


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    size=st.integers(1, 12 * CHUNK),
    ranged=st.booleans(),
    splits=st.lists(st.integers(1, 3 * CHUNK), min_size=1, max_size=5),
    script=st.lists(st.sampled_from(["good", "good", "cut", "down", "broken", "wrong"]), min_size=1, max_size=6),
    reads=st.lists(st.lists(fractions, min_size=1, max_size=4) | st.just([(0.0, 1.0)]), min_size=1, max_size=6),
    drops=st.integers(0, 3),
    roomy=st.booleans(),
    open_ended=st.booleans(),
)
def test_a_reader_gets_the_true_bytes_or_a_failure(
    size: int,
    ranged: bool,
    splits: list[int],
    script: list[str],
    reads: list[list[tuple[float, float]]],
    drops: int,
    roomy: bool,
    open_ended: bool,
) -> None:
    """Whole answers are always right or fail, ranges too unless the upstream itself sent other bytes; the next try heals."""
    splits = [max(one, size // 200 + 1) for one in splits]
    source = Scripted(noise(size), ranged, splits, script)
    limit = (1 << 30) if roomy else 5 * CHUNK
    asyncio.run(play(source, size, reads, drops, limit, open_ended=open_ended))
