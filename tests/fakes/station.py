"""A small HTTP server on a real socket that answers as a test wants: an origin, or a forward proxy on the way to one."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from aiohttp import web

Answering = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Station:
    """``seen``: its requests; ``answer`` may be exchanged at any time."""

    def __init__(self, answer: Answering) -> None:
        self.answer = answer
        self.seen: list[web.BaseRequest] = []
        self.url = ""
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._handle, handler_cancellation=True), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(request)
        return await self.answer(request)


def says(body: bytes = b"", status: int = 200, **headers: str) -> Answering:
    """The same answer every time; underscores in header names stand for hyphens."""

    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body, headers=named)

    return answer


def in_turn(*answers: Answering) -> Answering:
    """One after the other, the last one for ever."""
    left = list(answers)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return await (left.pop(0) if len(left) > 1 else left[0])(request)

    return answer


async def silent(_: web.BaseRequest) -> web.StreamResponse:
    """Never an answer."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


def starts(body: bytes, promised: int) -> Answering:
    """The start of a body, and then nothing for ever."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(promised)})
        await response.prepare(request)
        await response.write(body)
        await asyncio.Event().wait()
        return response

    return answer


async def breaks_off(request: web.BaseRequest) -> web.StreamResponse:
    """A body that is cut."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"x")
    assert request.transport is not None
    request.transport.close()
    return response


async def dead_url() -> str:
    """A URL where nobody listens."""
    async with Station(silent) as gone:
        return gone.url
