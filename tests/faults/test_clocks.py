"""A clock that jumps, and a tier that hangs."""

import asyncio
import os
import sys
import threading
from pathlib import Path

import pytest

from registry_proxy.plan.chunks import Span
from tests.fakes.instance import CHUNK, HOST, Bench, Benches, noise
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.fakes.wire import Wire
from tests.faults.conftest import Reachable, right
from tests.interop.harness.process import Process, answers, free_port

DATA, OTHER = noise(5 * CHUNK + 7, 1), noise(3 * CHUNK, 2)
NOW = 1_800_000_000.0
YEAR = 365 * 86400.0


async def tag(b: Reachable) -> bytes | None:
    """The manifest under the tag; None for a failure."""
    async with b.wire() as wire:
        answer = await wire.ask(f"/v2/{REPOSITORY}/manifests/latest?ns={HOST}")
    return answer.body if answer.status == 200 else None


@pytest.mark.parametrize("jump", [-10 * YEAR, -3600.0, -1.0, 1.0, 3600.0, 10 * YEAR])
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
async def test_a_clock_that_jumps(bench: Benches, upstream: FakeUpstream, jump: float, restart: bool) -> None:
    """Blobs and manifests are what they are at any time; a tag that was pushed meanwhile is seen once its time is over."""
    now = [NOW]
    blob = upstream.add_blob(DATA)
    first = upstream.content[upstream.add_image(tag="latest")]

    async with bench(listen=True, clock=lambda: now[0]) as b:
        assert await right(b, blob, DATA)
        assert await tag(b) == first
        sent = upstream.sent(blob)
        now[0] += jump
        if not restart:
            await served(b, now)
    if restart:
        async with bench(listen=True, clock=lambda: now[0]) as b:
            await served(b, now)
    assert upstream.sent(blob) <= sent + len(DATA)


async def served(b: Bench, now: list[float]) -> None:
    """Everything is served after the jump, and the tag moves with its upstream."""
    upstream = b.upstream
    (blob,) = (digest for digest, data in upstream.content.items() if data == DATA)
    sent = upstream.sent(blob)
    assert await right(b, blob, DATA)
    assert await right(b, blob, DATA, Span(CHUNK - 1, CHUNK + 1))
    assert upstream.sent(blob) - sent <= 1
    assert await tag(b) is not None
    second = upstream.content[upstream.add_image(tag="latest", layers=[b"new"])]
    now[0] += 61
    assert await tag(b) == second
    new = upstream.add_blob(OTHER)
    assert await right(b, new, OTHER)
    now[0] = NOW
    assert await right(b, new, OTHER)


JUMPY = """
import pathlib, sys, time

jump, real = pathlib.Path(sys.argv[1]), (time.time, time.time_ns)
time.time = lambda: real[0]() + float(jump.read_text())
time.time_ns = lambda: real[1]() + int(jump.read_text()) * 10**9
from registry_proxy.cli import main
sys.exit(main.run(sys.argv[2:]))
"""


class Jumpy:
    """An instance in a process of its own whose clock does what it is told."""

    def __init__(self, upstream: FakeUpstream, directory: Path) -> None:
        self.upstream = upstream
        self._port = free_port()
        self._jump = directory / "jump"
        self.jump(0)
        words = (
            "--listen",
            f"127.0.0.1:{self._port}",
            "--store",
            directory / "store",
            "--upstream",
            f"{HOST}={upstream.url}",
        )
        command = (sys.executable, "-c", JUMPY, self._jump, "serve", *words)
        self.process = Process("registry-proxy", command, directory)

    def jump(self, seconds: float) -> None:
        """The clock is so far from the true time from now on."""
        written = self._jump.with_suffix(".new")
        written.write_text(str(int(seconds)))
        written.replace(self._jump)

    def wire(self) -> Wire:
        """A connection to it."""
        return Wire(("127.0.0.1", self._port))

    async def ready(self) -> None:
        """Wait until it answers."""
        url = f"http://127.0.0.1:{self._port}/v2/"
        await asyncio.to_thread(self.process.ready_when, lambda: answers(url))


async def test_the_clock_of_a_process_jumps(upstream: FakeUpstream, tmp_path: Path) -> None:
    """Back and forth by years: what is stored is served, and kept; a tag of unknown age is asked for; what is new is fetched."""
    blob = upstream.add_blob(DATA)
    it = Jumpy(upstream, tmp_path)
    with it.process:
        await it.ready()
        assert await right(it, blob, DATA)
        sent = upstream.sent(blob)
        for number, jump in enumerate((10 * YEAR, -10 * YEAR, 0, -3600, 3600)):
            await asyncio.to_thread(it.jump, jump)
            latest = upstream.content[upstream.add_image(tag="latest", layers=[bytes([number])])]
            assert await tag(it) == latest
            assert await right(it, blob, DATA)
            assert await right(it, blob, DATA, Span(CHUNK - 1, CHUNK + 1))
            new = upstream.add_blob(noise(CHUNK, 10 + number))
            assert await right(it, new, noise(CHUNK, 10 + number))
        assert upstream.sent(blob) == sent


async def test_a_tier_that_hangs(
    bench: Benches, upstream: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mounted CVMFS whose every call hangs costs one reader its time limit; all get right bytes, later ones at once."""
    blob = upstream.add_blob(DATA)
    mount = tmp_path / "mount"
    mount.mkdir()
    go_on, calls = threading.Event(), []
    real = os.open

    def hang(path: object, *rest: object, **more: object) -> int:
        if str(path).startswith(str(mount)):
            calls.append(path)
            go_on.wait(60)
        return real(path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", hang)
    try:
        async with bench(listen=True, cvmfs=(mount,)) as b:
            assert all(await asyncio.gather(*(right(b, blob, DATA) for _ in range(5))))
            assert await right(b, blob, DATA, Span(5, 10))
            assert len(calls) <= 5
            go_on.set()
    finally:
        go_on.set()
