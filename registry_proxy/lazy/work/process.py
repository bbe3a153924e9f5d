"""The nearer end of a worker process: it gets the layer on its standard input and says on its standard output how it goes.

The first line it gets is an ``Order``; then come the layer's bytes, once, and once more for each time that it says ``again``. The lines
it prints are a ``Report`` each. A process that falls silent is killed; so is one whose job is cancelled.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final

import msgspec

import registry_proxy
from registry_proxy.errors import UpstreamBroken
from registry_proxy.lazy.failures import LayerRefused, WorkerDied
from registry_proxy.lazy.terms import Kind

Layer = Callable[[], AsyncGenerator[bytes, None]]
"""The layer's bytes from the first on, as often as it is called."""

_SILENCE: Final = 900.0
"""Seconds without a report: a layer of one large file says little while the upstream is slow."""

_LINE: Final = 1 << 20
_WORDS: Final = 2000
_LAST_WORDS: Final = 5.0


class Order(msgspec.Struct, frozen=True):
    """What a worker is to make. ``digest``, ``size``: of the layer; ``out``: the file to write."""

    kind: Kind
    digest: str
    size: int
    media_type: str
    span_size: int
    out: str


class Product(msgspec.Struct, frozen=True):
    """What has become of the layer and lies in ``Order.out``."""

    digest: str
    size: int
    details: dict[str, str | int] = {}


class Report(msgspec.Struct, omit_defaults=True):
    """A line of a worker: one of these. ``taken``: bytes of the layer; ``refused``, ``wrong``: why there is nothing, ``wrong``
    if the bytes that came were not those of the digest."""

    taken: int | None = None
    again: bool = False
    product: Product | None = None
    refused: str | None = None
    wrong: str | None = None


async def make(order: Order, layer: Layer, progress: Callable[[int], None]) -> Product:
    """Have a worker process make it. Raises LayerRefused, WorkerDied, UpstreamBroken (other bytes), and what ``layer`` raises."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "registry_proxy.lazy.work.worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(registry_proxy.__file__).parents[1])},
        start_new_session=True,
        limit=_LINE,
    )
    try:
        return await _Dialogue(process, order, layer, progress).product()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class _Dialogue:
    def __init__(
        self, process: asyncio.subprocess.Process, order: Order, layer: Layer, progress: Callable[[int], None]
    ) -> None:
        assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018 - all three are pipes
        self._to, self._from, self._words = process.stdin, process.stdout, process.stderr
        self._order = order
        self._layer = layer
        self._progress = progress
        self._again = asyncio.Event()

    async def product(self) -> Product:
        """Feed the worker and listen to it until it has a product or says why not."""
        feeding = asyncio.create_task(self._feed())
        listening = asyncio.create_task(self._listen())
        words = asyncio.create_task(_last_words(self._words))
        try:
            await asyncio.wait({feeding, listening}, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done() and (error := feeding.exception()) is not None and not isinstance(error, ConnectionError):
                raise error
            product = await listening
            if product is not None:
                return product
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(words), _LAST_WORDS)
            raise WorkerDied(f"a worker process ended without a word: {_last_line(words)}")
        finally:
            for task in (feeding, listening, words):
                task.cancel()
            await asyncio.gather(feeding, listening, words, return_exceptions=True)

    async def _feed(self) -> None:
        self._to.write(msgspec.json.encode(self._order) + b"\n")
        while True:
            async with aclosing(self._layer()) as pieces:
                async for piece in pieces:
                    self._to.write(piece)
                    await self._to.drain()
            await self._again.wait()
            self._again.clear()

    async def _listen(self) -> Product | None:
        while True:
            try:
                line = await asyncio.wait_for(self._from.readline(), _SILENCE)
            except TimeoutError:
                raise WorkerDied(f"a worker process said nothing for {_SILENCE:.0f} s") from None
            if not line:
                return None
            report = msgspec.json.decode(line, type=Report)
            if report.product is not None:
                return report.product
            if report.refused is not None:
                raise LayerRefused(report.refused)
            if report.wrong is not None:
                raise UpstreamBroken(report.wrong)
            if report.again:
                self._again.set()
            if report.taken is not None:
                self._progress(report.taken)


async def _last_words(stream: asyncio.StreamReader) -> bytes:
    """The last ``_WORDS`` bytes of a stream, once it has ended; nothing that comes before stands in its way."""
    last = b""
    while block := await stream.read(_WORDS):
        last = (last + block)[-_WORDS:]
    return last


def _last_line(words: "asyncio.Task[bytes]") -> str:
    text = words.result().decode("utf-8", "replace").strip() if words.done() else ""
    return text.rpartition("\n")[2] or "nothing on its standard error"
