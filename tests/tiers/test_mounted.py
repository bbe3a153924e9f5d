"""A mounted tree as a tier: what it gives, what it does not, and what a mount that fails or hangs costs."""

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from registry_proxy.config import Flags, load
from registry_proxy.errors import ConfigInvalid, TierFailed
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.tiers import mounted, tree
from registry_proxy.tiers.mounted import MountedTier
from registry_proxy.tiers.stack import NO_TIERS, Stack
from tests.tiers.blobs import CHUNK, Blob, noise

LIMIT = 0.2


@dataclass
class Bench:
    """A tier over a directory, with a clock that stands still unless told otherwise."""

    root: Path
    now: float = 1000.0
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.tier = MountedTier("cvmfs:test", self.root, LIMIT, CHUNK, self.metrics, lambda: self.now)

    def publish(self, blob: Blob) -> Path:
        path = self.root / tree.blob_path(blob.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob.data)
        return path

    def graft(self, blob: Blob) -> Path:
        """The tree as a client of a repository with grafts sees it."""
        directory = self.root / tree.chunks_path(blob.digest, CHUNK)
        directory.mkdir(parents=True)
        for index in range(blob.grid.count):
            (directory / str(index)).write_bytes(blob.part(index))
        return directory

    async def read(self, blob: Blob, span: Span) -> bytes | None:
        found = await self.tier.find(blob.digest, len(blob.data))
        if found is None:
            return None
        try:
            return await found.read(span)
        finally:
            found.close()

    @property
    def state(self) -> object:
        return self.tier.stats()["state"]

    def failures(self, kind: str) -> float:
        labels = {"tier": "cvmfs:test", "kind": kind}
        return self.metrics.registry.get_sample_value("registry_proxy_tier_failures_total", labels) or 0


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path / "mount")
    made.root.mkdir()
    yield made
    await made.tier.close()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], threading.Event]]:
    """Makes a function of the tree hang, as it does below a FUSE mount whose program is stopped, until the event is set."""
    events: list[threading.Event] = []

    def hang(name: str) -> threading.Event:
        event, real = threading.Event(), getattr(tree, name)
        events.append(event)

        def slow(*arguments: object) -> object:
            event.wait(30)
            return real(*arguments)

        monkeypatch.setattr(tree, name, slow)
        return event

    yield hang
    for event in events:
        event.set()


def descriptors() -> set[str]:
    """The open files of this process."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def failing(number: int) -> Callable[..., object]:
    def fail(*_: object) -> object:
        raise OSError(number, os.strerror(number))

    return fail


async def settled(condition: Callable[[], bool]) -> None:
    """Let threads and callbacks come to their end."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # threads set no events
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("lay", [Bench.publish, Bench.graft], ids=["blob", "grafts"])
async def test_any_span_of_a_published_blob(bench: Bench, lay: Callable[[Bench, Blob], Path]) -> None:
    """Every span is the blob's bytes, be it one file or one per chunk."""
    blob = noise(3 * CHUNK + 77)
    lay(bench, blob)
    for span in (Span(0, 1), Span(CHUNK - 1, CHUNK + 1), Span(5, len(blob.data)), Span(3 * CHUNK, 3 * CHUNK + 77)):
        assert await bench.read(blob, span) == blob.data[span.start : span.stop]


async def test_what_is_not_there_is_a_miss(bench: Bench) -> None:
    """An unknown digest, a wrong size, a directory and an empty blob are not found; nothing of that is a failure."""
    blob, other = noise(CHUNK), noise(CHUNK, 1)
    bench.publish(blob)
    (bench.root / tree.blob_path(other.digest)).mkdir(parents=True)
    assert await bench.tier.find(blob.digest, CHUNK - 1) is None
    assert await bench.tier.find(other.digest, CHUNK) is None
    assert await bench.tier.find(noise(9, 2).digest, 9) is None
    assert await bench.tier.find(Digest.of(b""), 0) is None
    assert bench.state == "works"


async def test_a_fifo_in_the_tree_holds_nothing_up(bench: Bench) -> None:
    """What is no regular file is not waited for."""
    blob = noise(10)
    path = bench.publish(blob)
    path.unlink()
    os.mkfifo(path)
    assert await bench.tier.find(blob.digest, 10) is None
    assert bench.state == "works"


async def test_a_miss_is_remembered_for_a_while(bench: Bench) -> None:
    """A blob that is published later is found once half a minute is over."""
    blob = noise(10)
    assert await bench.read(blob, Span(0, 10)) is None
    bench.publish(blob)
    assert await bench.read(blob, Span(0, 10)) is None
    bench.now += 30
    assert await bench.read(blob, Span(0, 10)) == blob.data


async def test_a_reader_keeps_its_file(bench: Bench) -> None:
    """A blob that is open is read to its end, although it is gone from the tree."""
    blob = noise(2 * CHUNK)
    path = bench.publish(blob)
    found = await bench.tier.find(blob.digest, len(blob.data))
    assert found is not None
    path.unlink()
    assert await found.read(Span(0, 2 * CHUNK)) == blob.data
    found.close()


async def test_no_descriptor_stays_open(bench: Bench) -> None:
    """Found, read and given back, whatever happened in between: as many files are open as before."""
    blob = noise(CHUNK)
    bench.publish(blob)
    before = descriptors()
    for size in (CHUNK, CHUNK, CHUNK - 1):
        found = await bench.tier.find(blob.digest, size)
        if found is not None:
            await found.read(Span(0, 5))
            found.close()
    await settled(lambda: descriptors() <= before)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
async def test_an_error_is_about_its_blob(bench: Bench, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be read is skipped for a while; others are served."""
    bad, good = noise(CHUNK), noise(CHUNK, 1)
    bench.publish(bad)
    bench.publish(good)
    found = await bench.tier.find(bad.digest, CHUNK)
    assert found is not None
    with monkeypatch.context() as patch:
        patch.setattr(tree, "_pread", failing(number))
        with pytest.raises(TierFailed):
            await found.read(Span(0, 5))
    found.close()
    assert await bench.read(bad, Span(0, 5)) is None
    assert await bench.read(good, Span(0, CHUNK)) == good.data
    assert (bench.state, bench.failures("error")) == ("works", 1)


async def test_a_file_that_shrinks_is_an_error(bench: Bench) -> None:
    """Fewer bytes than there were never become an answer."""
    blob = noise(CHUNK)
    path = bench.publish(blob)
    found = await bench.tier.find(blob.digest, CHUNK)
    assert found is not None
    os.truncate(path, 10)
    with pytest.raises(TierFailed):
        await found.read(Span(0, CHUNK))
    found.close()


async def test_a_vanished_mount_rests_and_comes_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the program behind it is dead the tier is skipped; a try in the background finds it again, at nobody's cost."""
    blob = noise(CHUNK)
    bench.publish(blob)
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(tree, "open_blob", failing(errno.ENOTCONN))
        patch.setattr(tree, "look", failing(errno.ENOTCONN))
        assert await bench.read(blob, Span(0, 5)) is None
        assert str(bench.state).startswith("rests: ")
        bench.now += 30
        assert await bench.read(blob, Span(0, 5)) is None
        await settled(lambda: bench.failures("gone") == 2)
        assert [line["event"] for line in logs] == ["tier.rests"]
    assert await bench.read(blob, Span(0, 5)) is None  # too early to try again
    bench.now += 30
    assert await bench.read(blob, Span(0, 5)) is None  # this one starts the try, and does not wait for it
    await settled(lambda: bench.state == "works")
    assert await bench.read(blob, Span(0, 5)) == blob.data[:5]


async def test_a_look_up_that_hangs_costs_its_limit_once(bench: Bench, stuck: Callable[[str], threading.Event]) -> None:
    """All who asked in that moment wait once, at the same time; whoever comes later does not."""
    blob = noise(CHUNK)
    bench.publish(blob)
    event = stuck("open_blob")
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await asyncio.gather(*(bench.read(blob, Span(0, 5)) for _ in range(20))) == [None] * 20
    assert loop.time() - began < 2 * LIMIT
    began = loop.time()
    assert await bench.read(blob, Span(0, 5)) is None
    assert loop.time() - began < LIMIT / 2
    assert bench.tier.stats()["hung"] == 8
    before = descriptors()
    event.set()
    await settled(lambda: bench.state == "works" and bench.tier.stats()["hung"] == 0)
    assert await bench.read(blob, Span(0, 5)) == blob.data[:5]
    await settled(lambda: descriptors() <= before)


async def test_a_read_that_hangs_fails_in_time(bench: Bench, stuck: Callable[[str], threading.Event]) -> None:
    """The reader hears of it within the limit and can go elsewhere; its file is closed when the read returns."""
    blob = noise(CHUNK)
    bench.publish(blob)
    before = descriptors()
    found = await bench.tier.find(blob.digest, CHUNK)
    assert found is not None
    event = stuck("_pread")
    began = asyncio.get_running_loop().time()
    with pytest.raises(TierFailed):
        await found.read(Span(0, 5))
    assert asyncio.get_running_loop().time() - began < 2 * LIMIT
    found.close()
    assert bench.failures("timeout") == 1
    event.set()
    await settled(lambda: descriptors() <= before)


async def test_tries_of_a_hung_mount_do_not_pile_up(
    tmp_path: Path, stuck: Callable[[str], threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that hangs for an hour holds a bounded number of threads."""
    monkeypatch.setattr(mounted, "_THREADS", 1)
    monkeypatch.setattr(mounted, "_HUNG", 2)
    bench = Bench(tmp_path)
    blob = noise(CHUNK)
    bench.publish(blob)
    stuck("open_blob")
    stuck("look")
    assert await bench.read(blob, Span(0, 5)) is None
    for tries in range(1, 6):
        bench.now += 30
        assert await bench.read(blob, Span(0, 5)) is None
        await settled(lambda tries=tries: bench.failures("timeout") == 1 + tries)
    assert bench.tier.stats()["hung"] == 3
    await bench.tier.close()


async def test_a_wrong_blob_is_not_found_again(bench: Bench) -> None:
    """What a reader has hashed and found wrong is left alone for good."""
    blob = noise(CHUNK)
    bench.publish(blob)
    found = await bench.tier.find(blob.digest, CHUNK)
    assert found is not None
    found.reject()
    found.close()
    bench.now += 1e6
    assert await bench.tier.find(blob.digest, CHUNK) is None
    assert bench.failures("corrupt") == 1


async def test_a_probe_says_what_is_wrong(bench: Bench) -> None:
    """check is told whether the mount answers."""
    assert await bench.tier.probe() is None
    bench.root.rmdir()
    assert "No such file" in str(await bench.tier.probe())


async def test_a_stack_asks_its_tiers_in_order(tmp_path: Path) -> None:
    """The first tier that has the blob gives it; without tiers there is nothing to ask."""
    first, second = Bench(tmp_path / "a"), Bench(tmp_path / "b")
    one, two = noise(CHUNK), noise(CHUNK, 1)
    first.publish(one)
    second.publish(one)
    second.publish(two)
    first.tier.name = "first"
    stack = Stack([first.tier, second.tier])
    names = []
    for blob in (one, two, noise(CHUNK, 2)):
        found = await stack.find(blob.digest, CHUNK)
        names.append(found and found.tier)
        if found is not None:
            found.close()
    assert names == ["first", "cvmfs:test", None]
    assert len(stack.stats()) == 2
    assert not NO_TIERS
    await stack.close()


def test_mounts_are_configured_by_file_or_flag(tmp_path: Path) -> None:
    """Any number of tables, paths meant from the file's directory; the flag replaces them all; a limit of nothing is refused."""
    file = tmp_path / "proxy.toml"
    file.write_text("[[cvmfs]]\npath = 'mount'\ntime_limit = '250ms'\n[[cvmfs]]\npath = '/cvmfs/images.example.org'\n")
    one, two = load(file, {}).cvmfs
    assert (one.path, one.time_limit) == (tmp_path / "mount", 0.25)
    assert (two.path, two.time_limit) == (Path("/cvmfs/images.example.org"), 5)
    [flagged] = load(file, {}, Flags(cvmfs=(Path("/elsewhere"),))).cvmfs
    assert flagged.path == Path("/elsewhere")
    file.write_text("[[cvmfs]]\npath = '/x'\ntime_limit = 0\n")
    with pytest.raises(ConfigInvalid, match=r"cvmfs\[0\].time_limit: more than 0"):
        load(file, {})
    file.write_text("[cvmfs]\npath = '/x'\n")
    with pytest.raises(ConfigInvalid, match=r"cvmfs: expected tables under \[\[cvmfs\]\]"):
        load(file, {})


async def test_what_it_gave_is_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hits, misses, failures, bytes and the time of calls: each question counts once."""
    blob, other = noise(CHUNK), noise(CHUNK + 1)
    assert bench.tier.stats()["seconds"] is None
    bench.publish(blob)
    assert await bench.read(blob, Span(0, 5)) == blob.data[:5]
    assert [await bench.read(other, Span(0, 5)) for _ in range(2)] == [None, None]
    monkeypatch.setattr(tree, "open_blob", failing(errno.EIO))
    assert await bench.read(blob, Span(0, 5)) is None
    figures = bench.tier.stats()
    assert {name: figures[name] for name in ("hit", "miss", "failure", "bytes")} == {
        "hit": 1, "miss": 2, "failure": 1, "bytes": 5
    }  # fmt: skip
    assert 0 < float(str(figures["seconds"])) < LIMIT
