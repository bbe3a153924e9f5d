"""Limits on real connections. Clients of loopback have none of their own, so here some count as somebody else."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from registry_proxy.errors import Overloaded
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.web import limits
from registry_proxy.web.limits import Bodies, raise_open_files
from tests.fakes.wire import Wire
from tests.web.conftest import StartFace
from tests.web.memory import MemoryBlob, MemoryHeart, memory_blob

CONTENT = bytes(range(250)) * 20


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 counts as another machine."""
    monkeypatch.setattr(limits, "client_of", lambda remote: remote)


@pytest.fixture
def blob(heart: MemoryHeart) -> MemoryBlob:
    blob = memory_blob(CONTENT, chunk=1000)
    heart.blobs["registry.test", "a", str(blob.digest)] = blob
    return blob


def path(blob: MemoryBlob) -> str:
    return f"/v2/a/blobs/{blob.digest}?ns=registry.test"


def counted(metrics: Metrics, limit: str) -> float | None:
    return metrics.registry.get_sample_value("registry_proxy_refused_total", {"limit": limit})


async def refused(address: tuple[str, int]) -> bool:
    """True if a new connection is closed at once."""
    async with Wire(address) as wire:
        wire.send("/v2/")
        try:
            return await wire.closed()
        except ConnectionError:
            return True


@pytest.mark.usefixtures("strangers")
class TestConnections:
    async def test_one_too_many(self, start: StartFace, metrics: Metrics) -> None:
        """A client's connection beyond its limit is closed at once, those it has go on, and one that ends makes room."""
        face = await start(connections_per_client=2)
        async with Wire(face.addresses[0]) as first:
            async with Wire(face.addresses[0]) as second:
                for wire in (first, second):
                    assert (await wire.ask("/v2/")).status == 200
                with capture_logs() as logs:
                    assert await refused(face.addresses[0])
                    assert await refused(face.addresses[0])
                assert (await first.ask("/v2/")).status == 200
                assert counted(metrics, "connection") == 2
                told = [entry for entry in logs if entry["event"] == "limits.connections_refused"]
                assert [(entry["client"], entry["refused"]) for entry in told] == [("127.0.0.1", 1)]
            async with asyncio.timeout(10):
                while await refused(face.addresses[0]):
                    pass

    async def test_all_together(self, start: StartFace) -> None:
        """The limit on all connections holds across listeners."""
        face = await start(connections=1, listen=("127.0.0.1:0", "127.0.0.1:0"))
        async with Wire(face.addresses[0]) as wire:
            assert (await wire.ask("/v2/")).status == 200
            assert await refused(face.addresses[1])

    async def test_a_crowd_passes(self, start: StartFace) -> None:
        """Five hundred connections that say nothing leave room for those who ask, and are forgotten when they go."""
        face = await start(connections_per_client=1000)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(500):
                stack.enter_context(contextlib.closing(socket.create_connection(face.addresses[0])))
                await asyncio.sleep(0)
            async with Wire(face.addresses[0]) as wire:
                assert (await wire.ask("/v2/")).status == 200
            assert face._limits.crowd.open >= 500
        async with asyncio.timeout(10), Wire(face.addresses[0]) as wire:
            while face._limits.crowd.open > 1:
                await wire.ask("/v2/")


async def test_this_machine_has_no_limit_of_its_own(start: StartFace) -> None:
    """Loopback clients are not counted per client, so that health checks always get in."""
    face = await start(connections_per_client=1, requests_per_client=1, queue=0)
    async with Wire(face.addresses[0]) as first, Wire(face.addresses[0]) as second:
        for wire in (first, second, first, second, first):
            assert (await wire.ask("/healthz")).status == 200


async def test_half_of_the_files_are_kept(start: StartFace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections take at most half of the files that the process may have open; the store needs some too."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, 1000))
    face = await start(connections=10_000)
    assert face._limits.crowd.total == 500


@pytest.mark.usefixtures("strangers")
class TestRate:
    async def test_beyond_the_queue(self, start: StartFace, metrics: Metrics) -> None:
        """Who asks too fast gets 429 with an OCI body and Retry-After, and the connection goes on."""
        face = await start(requests_per_client=1, queue=0)
        async with Wire(face.addresses[0]) as wire:
            answers = [await wire.ask("/v2/a/tags/list?ns=registry.test") for _ in range(5)]
            last = answers[-1]
            assert (last.status, last.codes) == (429, ["TOOMANYREQUESTS"])
            assert 1 <= int(last.headers["Retry-After"]) <= 3
            assert answers[0].status != 429
        assert counted(metrics, "rate")

    async def test_the_queue(self, start: StartFace) -> None:
        """Requests a little too fast wait instead of failing."""
        face = await start(requests_per_client=50, queue=10)
        loop = asyncio.get_running_loop()
        async with Wire(face.addresses[0]) as wire:
            began = loop.time()
            answers = [(await wire.ask("/v2/")).status for _ in range(115)]
        assert answers == [200] * 115
        assert loop.time() - began >= 14 / 50 - 0.01


class TestBodies:
    @pytest.fixture
    async def full(self, start: StartFace, blob: MemoryBlob) -> AsyncIterator[tuple[str, int]]:
        """A face whose only body is being sent, and may be held up, with one place in the queue."""
        face = await start(bodies=1, queue=1)
        blob.faults.at_chunk, blob.faults.gate = 3, asyncio.Event()
        async with Wire(face.addresses[0]) as wire:
            wire.send(path(blob))
            await blob.faults.waiting.wait()
            yield face.addresses[0]
            blob.faults.gate.set()
            assert (await wire.answer()).body == CONTENT

    async def test_who_waits_gets_it(self, full: tuple[str, int], blob: MemoryBlob) -> None:
        """A download beyond the limit starts when another one ends; what has no body does not wait."""
        async with Wire(full) as waiting, Wire(full) as other:
            waiting.send(path(blob))
            assert (await other.ask("/v2/")).status == 200
            blob.faults.gate.set()
            assert (await waiting.answer()).body == CONTENT

    async def test_beyond_the_queue(self, full: tuple[str, int], blob: MemoryBlob, metrics: Metrics) -> None:
        """When the queue is full: 503 with Retry-After. Who leaves the queue makes room in it."""
        async with Wire(full) as patient, Wire(full) as extra:
            patient.send(path(blob))
            async with asyncio.timeout(10):
                while (answer := await extra.ask(path(blob), "Range: bytes=0-1")).status != 503:
                    pass
            assert (answer.codes, answer.headers["Retry-After"]) == (["TOOMANYREQUESTS"], "5")
            assert counted(metrics, "body") == 1

    async def test_it_does_not_wait_for_ever(
        self, full: tuple[str, int], blob: MemoryBlob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A wait ends in 503 too."""
        monkeypatch.setattr(limits, "_BODY_PATIENCE", 0.01)
        async with Wire(full) as wire:
            assert (await wire.ask(path(blob))).status == 503

    async def test_the_places_survive_any_end(self) -> None:
        """Cancelled while waiting, or just when the turn came: no place is lost."""
        bodies, held = Bodies(1, 5, lambda: None), asyncio.Event()

        async def hold() -> None:
            async with bodies:
                await held.wait()

        first, second, third = (asyncio.create_task(hold()) for _ in range(3))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        first.cancel()
        await asyncio.sleep(0)
        assert not bodies._waiting
        third.cancel()  # its turn has come, and it does not know yet
        await asyncio.gather(first, third, return_exceptions=True)
        assert bodies._running == 0
        held.set()
        await asyncio.wait_for(hold(), 1)

    async def test_more_room_wakes_who_waits(self) -> None:
        """A higher limit holds at once."""
        refused: list[int] = []
        bodies = Bodies(0, 1, lambda: refused.append(1))
        waiting = asyncio.create_task(bodies.__aenter__())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await bodies.__aenter__()
        assert refused == [1]
        bodies.resize(1, 1)
        await asyncio.wait_for(waiting, 1)


async def test_a_url_too_long(start: StartFace) -> None:
    """414 with an OCI body, and the connection ends."""
    face = await start()
    async with Wire(face.addresses[0]) as wire:
        answer = await wire.ask("/v2/" + "a" * (16 << 10))
        assert (answer.status, answer.codes) == (414, ["UNSUPPORTED"])
        assert await wire.closed()


@pytest.mark.parametrize("headers", [("X-Long: " + "x" * 70_000,), tuple(f"X-{n}: 1" for n in range(120))])
async def test_headers_too_large(start: StartFace, headers: tuple[str, ...]) -> None:
    """One header beyond its limit, or too many of them: 431 with an OCI body, and the connection ends."""
    face = await start()
    async with Wire(face.addresses[0]) as wire:
        answer = await wire.ask("/v2/", *headers)
        assert (answer.status, answer.codes) == (431, ["UNSUPPORTED"])
        assert await wire.closed()


async def test_a_thousand_ranges_fit(start: StartFace, blob: MemoryBlob) -> None:
    """What podman sends for a zstd:chunked image is within all limits."""
    face = await start()
    ranges = ",".join(f"{1_000_000_000 + n * 10}-{1_000_000_000 + n * 10 + 5}" for n in range(1023))
    async with Wire(face.addresses[0]) as wire:
        assert (await wire.ask(path(blob), f"Range: bytes=0-9,{ranges}")).status == 206


def test_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process takes what the system lets it have, up to a bound, and never less than it has."""
    asked = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, values: asked.append(values))
    for soft, hard in ((1024, 524288), (1024, 4096), (1024, resource.RLIM_INFINITY), (100_000, 524288)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, found=(soft, hard): found)
        raise_open_files()
    assert asked == [(65536, 524288), (4096, 4096), (65536, resource.RLIM_INFINITY)]
