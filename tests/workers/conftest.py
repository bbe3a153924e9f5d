"""An instance of several processes, as a service manager would run it, before a fake upstream."""

import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fakes.instance import CHUNK
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.fakes.wire import Wire

HOST = "registry.example"
BASE = f"/v2/{HOST}/{REPOSITORY}"


class Workers:
    """The running instance. ``lines``: what it has logged; ``port``: where it listens."""

    def __init__(self, process: asyncio.subprocess.Process, file: Path) -> None:
        self.process = process
        self.file = file
        self.lines: list[dict[str, Any]] = []
        self.port = 0
        self.tls: ssl.SSLContext | None = None
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    def wire(self) -> Wire:
        """A connection to one of its servers."""
        return Wire(("127.0.0.1", self.port), self.tls)

    async def said(self, event: str, count: int = 1, **fields: object) -> list[dict[str, Any]]:
        """Wait until it has logged an event so many times, with these fields."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines if line["event"] == event and fields.items() <= line.items()]

        async with asyncio.timeout(30), self._news:
            await self._news.wait_for(lambda: len(found()) >= count)
        return found()

    async def stats(self) -> dict[str, Any]:
        async with self.wire() as wire:
            answer = await wire.ask("/stats")
            return msgspec.json.decode(answer.body, type=dict[str, Any])

    async def pid(self, name: str) -> int:
        """The process of this name."""
        return next(one["pid"] for one in (await self.stats())["processes"] if one["name"] == name)

    async def kill(self, name: str) -> None:
        """kill -9."""
        os.kill(await self.pid(name), signal.SIGKILL)

    @asynccontextmanager
    async def one_of_each(self, count: int = 2) -> AsyncIterator[list[Wire]]:
        """A connection to each of the servers, in no order."""
        async with contextlib.AsyncExitStack() as stack:
            found: dict[str, Wire] = {}
            async with asyncio.timeout(20):
                while len(found) < count:
                    wire = await stack.enter_async_context(self.wire())
                    found.setdefault(server_of((await wire.ask("/v2/")).headers["X-Request-Id"]), wire)
            yield list(found.values())

    async def end(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(self.process.wait(), 40)
        await self._reading
        return code

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": "said", "text": line.decode()}
            async with self._news:
                self.lines.append(entry)
                self._news.notify_all()


def server_of(request: str) -> str:
    """The server that a request id comes from."""
    return request.partition("-")[0]


Start = Callable[..., AbstractAsyncContextManager[Workers]]


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest.fixture
def start(tmp_path: Path, upstream: FakeUpstream) -> Start:
    """Starts instances of two servers; what is left of one is ended."""

    @asynccontextmanager
    async def make(server: str = "", policy: str = "", *, workers: int = 2, more: str = "") -> AsyncIterator[Workers]:
        file = tmp_path / "proxy.toml"
        file.write_text(configuration(upstream, tmp_path, server, policy, workers) + more)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "registry_proxy", "serve", "--config", str(file)),
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "RUNTIME_DIRECTORY": ""},
        )
        running = Workers(process, file)
        try:
            [ready] = await running.said("server.ready")
            assert ready["process"] == "supervisor"
            running.port = int((await running.said("server.listening"))[0]["url"].rpartition(":")[2])
            yield running
        finally:
            await running.end()

    return make


def configuration(
    upstream: FakeUpstream, directory: Path, server: str = "", policy: str = "", workers: int = 2, more: str = ""
) -> str:
    """A configuration file of an instance on a free port."""
    return f"""\
default_upstreams = false
[server]
listen = ["127.0.0.1:0"]
workers = {workers}
drain = "5s"
{server}
[store]
path = "{directory / "store"}"
limit = "1GiB"
chunk_size = {CHUNK}
[policy]
{policy}
[upstream."{HOST}"]
urls = ["{upstream.url}"]
{more}
"""
