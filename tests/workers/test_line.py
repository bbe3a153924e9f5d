"""A server's calls to a fetcher that is not well: each call gets its own answer, or none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from registry_proxy.errors import Trouble
from registry_proxy.workers import calls, line
from registry_proxy.workers.calls import GetStats, Hello, Stats
from registry_proxy.workers.line import Line
from registry_proxy.workers.wire import Wire, WireLost


async def connections(path: Path) -> AsyncIterator[Wire]:
    """The connections that servers make to a fetcher that listens at ``path``, greeted."""
    came: asyncio.Queue[Wire] = asyncio.Queue()
    listener = await asyncio.get_running_loop().create_unix_server(lambda: Wire(came.put_nowait), str(path))
    open_ = []
    try:
        while True:
            wire = await came.get()
            open_.append(wire)
            wire.send(calls.pack(Hello("one")))
            yield wire
    finally:
        listener.close()
        for wire in open_:
            wire.close()
            await wire.until_lost()


async def test_an_answer_that_comes_too_late_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fetcher says to a call that was given up on is not taken for the answer to the next one."""
    monkeypatch.setattr(line, "_LONGEST", 0.1)
    server = Line(str(tmp_path / "line"), 2)
    async with aclosing(connections(tmp_path / "line")) as wires:
        coming = asyncio.ensure_future(anext(wires))
        await asyncio.sleep(0)  # it listens
        with pytest.raises(Trouble, match="did not answer"):
            await server.ask(GetStats(), Stats)
        slow = await coming
        await slow.receive()
        monkeypatch.setattr(line, "_LONGEST", 10)
        slow.send(calls.pack(Stats(b'"late"')))
        asking = asyncio.create_task(server.ask(GetStats(), Stats))
        with pytest.raises(WireLost):
            await slow.receive()
        wire = await anext(wires)
        await wire.receive()
        wire.send(calls.pack(Stats(b'"right"')))
        assert (await asking).json == b'"right"'
        await server.close()
