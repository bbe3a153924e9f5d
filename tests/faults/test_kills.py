"""kill -9 and power cuts at random moments of a busy instance, dozens of times: it starts by itself, sends no wrong byte, loses sight of nothing."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loadtest.chaos.__main__ import mended, session
from loadtest.chaos.clients import Client
from loadtest.chaos.truth import LARGEST, Tally, Truth
from loadtest.chaos.world import World
from registry_proxy.config import Config, Policy, Server, Store, Timeouts, Upstream
from registry_proxy.oci.names import SourceHost
from tests.fakes import powercut
from tests.fakes.upstream import FakeUpstream
from tests.faults.forked import Forked
from tests.interop.harness.process import free_port
from tests.interop.harness.proxy import SOURCE

KILLS, CUTS = 40, 15
CLIENTS = 8
LIFE = 0.4  # seconds that an instance lives at the most, its start included


@pytest.fixture
async def around(tmp_path: Path, upstream: FakeUpstream) -> AsyncIterator[World]:
    """An upstream with an image, and an instance that is not running yet."""
    config = Config(
        store=Store(path=tmp_path / "store", limit=5 * LARGEST, chunk_size=64 << 10),
        upstreams={SourceHost(SOURCE): Upstream(urls=(upstream.url,), timeouts=Timeouts(connect=5, header=5, idle=5))},
        server=Server(listen=(f"127.0.0.1:{free_port()}",), drain=1),
        policy=Policy(tag_fresh=1),
    )
    proxy = Forked(config, tmp_path / "log")
    dice = random.Random(20261121)
    yield World(upstream, Truth(upstream, 1), Tally(), proxy, tmp_path, False, dice)  # type: ignore[arg-type]
    proxy.kill()


@pytest.mark.parametrize("power", [False, True], ids=["kill -9", "power cut"])
async def test_an_instance_that_dies_again_and_again(around: World, power: bool) -> None:
    """Clients that check every byte get right ones or failures they see; in the end every blob is right and nothing is leaked."""
    async with session(around) as calls, asyncio.TaskGroup() as group:
        until = time.monotonic() + 1000
        clients = [
            Client(calls, around.truth, around.tally, random.Random(seed), until, pause=0.02) for seed in range(CLIENTS)
        ]
        busy = [group.create_task(one.work()) for one in clients]
        for _ in range(CUTS if power else KILLS):
            ready = around.proxy.launch()  # type: ignore[attr-defined]
            if around.dice.random() < 0.8:
                assert await asyncio.to_thread(ready.poll, 60)
            await asyncio.sleep(around.dice.uniform(0, LIFE))
            await around.kill()
            if power:
                around.truth.unsure()
                powercut.cut(around.store, around.dice)
        for one in busy:
            one.cancel()
        around.upstream.heal()
        await around.start()
        await mended(around, calls)
    assert not around.tally.wrongs
    assert around.tally.bytes > 0
    assert list((around.store / "tmp").iterdir()) == []
