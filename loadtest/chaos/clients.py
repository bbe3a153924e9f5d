"""Clients that ask for anything, check every byte, and ask again until they have it."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import aiohttp
from multidict import CIMultiDict

from loadtest.chaos.truth import TAIL, Tally, Truth
from registry_proxy.plan.chunks import Span
from tests.fakes.upstream import REPOSITORY
from tests.fakes.wire import Answer

STUCK: Final = 90.0
"""Seconds in which an answer must come to its end, one way or the other. The instance gives an upstream 3 s for each step, resumes a
cut body a few times, and its clients 20 s to take something."""

PAUSE: Final = 2.0
"""Seconds of rest between two requests of a client, at the most."""

SLOW: Final = 1000  # bytes per second of a slow client


class Refused(Exception):
    """A failure that the client can see: a status, a cut body, no connection."""


class UnexpectedSuccess(Exception):
    """A success of another kind than was asked for: 200 to a range."""


class Client:
    """One client. ``session`` leads to the instance, ``until`` is when it stops asking (monotonic seconds)."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        truth: Truth,
        tally: Tally,
        dice: random.Random,
        until: float,
        pause: float = PAUSE,
    ) -> None:
        self._session, self._truth, self._tally, self._dice, self._until = session, truth, tally, dice, until
        self._pause = pause

    async def work(self) -> None:
        """One thing after the other; each again until it is right."""
        ways = (
            self._manifest,
            self._whole,
            self._range,
            self._range,
            self._range,
            self._parts,
            self._leave,
            self._dawdle,
            self._garbage,
        )
        while time.monotonic() < self._until:
            way = self._dice.choices(ways, (3, 4, 8, 8, 8, 4, 3, 1, 1))[0]
            number = self._dice.randrange(len(self._truth.sizes))
            if number in self._truth.listed and way in {self._whole, self._leave, self._dawdle}:
                way = self._range  # so that it is never complete because of one answer
            await self._until_right(way, number)
            await asyncio.sleep(self._dice.uniform(0, self._pause))

    async def _until_right(self, way: Callable[[int], Awaitable[None]], number: int) -> None:
        name = way.__name__.lstrip("_")
        while time.monotonic() < self._until:
            self._tally.asked[name] += 1
            if await self.attempt(way, number):
                return
            self._tally.retries += 1
            await asyncio.sleep(self._dice.uniform(0.1, 1.0))

    async def whole(self, number: int) -> bool:
        """All of a blob, once; True if it came."""
        return await self.attempt(self._whole, number)

    async def span(self, number: int, span: Span) -> bool:
        """A range of a blob, once; True if it came."""

        async def way(number: int) -> None:
            await self._one(number, span)

        return await self.attempt(way, number)

    async def named(self, number: int, seconds: float) -> None:
        """All of a listed blob that its TOC names, in ranges, again and again: what is wrong must be right within so many seconds."""
        end, deadline = self._truth.sizes[number] - TAIL, time.monotonic() + seconds
        spans = [Span(start, min(start + 100_000, end)) for start in range(0, end, 100_000)]
        while wrong := [span for span in spans if not await self._comes_right(number, span)]:
            if time.monotonic() > deadline:
                self._wrong(f"{wrong} of blob {number} stayed wrong, though its TOC names them")
                return
            await asyncio.sleep(0.2)

    async def _comes_right(self, number: int, span: Span) -> bool:
        before = self._tally.undigested
        return await self.span(number, span) and self._tally.undigested == before

    async def attempt(self, way: Callable[[int], Awaitable[None]], number: int) -> bool:
        """Try once; True if nothing failed visibly. A wait without an end is put down as one of the things that must not happen."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(STUCK):
                await way(number)
        except TimeoutError:
            self._wrong(f"stuck: {way.__name__} of blob {number} had no end within {STUCK:.0f} s")
            return False
        except UnexpectedSuccess as error:
            self._wrong(f"{error} to {way.__name__} of blob {number}")
            return False
        except Refused as error:
            self._tally.refused[str(error)] += 1
            return False
        except (aiohttp.ClientError, OSError) as error:
            self._tally.refused[type(error).__name__] += 1
            return False
        finally:
            if way is not self._dawdle:
                self._tally.longest = max(self._tally.longest, time.monotonic() - began)
        return True

    # --- ways of asking ---------------------------------------------------------------------------------------------------

    async def _manifest(self, _: int) -> None:
        image = self._truth.image
        name = self._dice.choice(("recorded", str(image.manifest)))
        async with self._session.get(f"/v2/{REPOSITORY}/manifests/{name}") as answer:
            _expect(answer, 200)
            if await answer.read() != image.text:
                self._wrong(f"a wrong manifest for {name}")

    async def _whole(self, number: int) -> None:
        at, wrong, size = 0, "", self._truth.sizes[number]
        async with self._session.get(self._path(number)) as answer:
            _expect(answer, 200)
            async for data in answer.content.iter_any():
                if not wrong and not self._truth.right(number, Span(at, at + len(data)), data):
                    wrong = self._truth.difference(number, at, data[: size - at])
                at += len(data)
        self._tally.bytes += at
        if at != size:
            self._wrong(f"truncated: {at} bytes of the {size} of blob {number}, without a failure")
        elif wrong:
            self._wrong(f"wrong bytes in a complete answer: blob {number}: {wrong}")
        else:
            self._truth.had_whole(number)

    async def _range(self, number: int) -> None:
        size = self._truth.sizes[number]
        start = self._dice.randrange(size)
        await self._one(number, Span(start, min(size, start + self._dice.choice((1, 1000, 65_536, 1_000_000)))))

    async def _one(self, number: int, span: Span) -> None:
        verified = self._truth.is_verified(number)
        headers = {"Range": f"bytes={span.start}-{span.stop - 1}"}
        async with self._session.get(self._path(number), headers=headers) as answer:
            _expect(answer, 206)
            said, body = answer.headers["Content-Range"], await answer.read()
        self._tally.bytes += len(body)
        expected = f"bytes {span.start}-{span.stop - 1}/{self._truth.sizes[number]}"
        if said != expected and not verified:
            self._tally.undigested += 1  # whose size is not known to anybody but the upstream
        elif said != expected or len(body) != len(span):
            self._wrong(f"another range: {said} and {len(body)} bytes for {span} of blob {number}")
        elif not self._truth.right(number, span, body):
            self._wrong_range(number, span, verified, body)

    async def _parts(self, number: int) -> None:
        size, verified = self._truth.sizes[number], self._truth.is_verified(number)
        starts = [self._dice.randrange(size - 1000) for _ in range(self._dice.randint(2, 20))]
        headers = {"Range": "bytes=" + ",".join(f"{start}-{start + 999}" for start in starts)}
        async with self._session.get(self._path(number), headers=headers) as answer:
            _expect(answer, 206)
            body = await answer.read()
        self._tally.bytes += len(body)
        parts = Answer(206, CIMultiDict({"Content-Type": answer.headers["Content-Type"]}), body).parts
        if [said for said, _ in parts] != [f"bytes {start}-{start + 999}/{size}" for start in starts]:
            self._wrong(f"other parts than were asked for of blob {number}")
        for start, (_, found) in zip(starts, parts, strict=False):
            if not self._truth.right(number, Span(start, start + 1000), found):
                self._wrong_range(number, Span(start, start + 1000), verified, found)

    async def _leave(self, number: int) -> None:
        """Vanish in the middle."""
        async with self._session.get(self._path(number)) as answer:
            _expect(answer, 200)
            wanted = self._dice.randrange(1, self._truth.sizes[number])
            found = await answer.content.read(wanted)
            self._tally.bytes += len(found)
            answer.close()

    async def _dawdle(self, number: int) -> None:
        """Read at 1 kB/s for a while, then vanish."""
        async with self._session.get(self._path(number)) as answer:
            _expect(answer, 200)
            for _ in range(self._dice.randint(2, 10)):
                await answer.content.read(SLOW)
                await asyncio.sleep(1)
            answer.close()

    async def _garbage(self, _: int) -> None:
        """Send what is no HTTP; the connection must end."""
        url = self._session._base_url  # noqa: SLF001  # the one place that knows where the instance listens
        assert url is not None
        reader, writer = await asyncio.open_connection(url.host, url.port)
        try:
            writer.write(
                self._dice.choice((self._dice.randbytes(3000), b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n" * 50))
                + b"\r\n\r\n"
            )
            writer.write_eof()
            await reader.read(-1)
        finally:
            writer.close()

    # --- what is made of it -----------------------------------------------------------------------------------------------

    def _path(self, number: int) -> str:
        return f"/v2/{REPOSITORY}/blobs/{self._truth.digest(number)}"

    def _wrong(self, what: str) -> None:
        self._tally.wrongs.append(what)

    def _wrong_range(self, number: int, span: Span, verified: bool, found: bytes) -> None:
        """``verified``: it was when the request went out, and is still: no fault has taken the records since."""
        if verified and self._truth.is_verified(number):
            how = self._truth.difference(number, span.start, found)
            self._wrong(f"wrong bytes in {span} of blob {number}, which was verified: {how}")
        else:
            self._tally.undigested += 1


def _expect(answer: aiohttp.ClientResponse, status: int) -> None:
    """Raises Refused for a failure that says so, UnexpectedSuccess for anything else that is not the status."""
    if answer.status != status:
        raise (Refused if answer.status >= 400 else UnexpectedSuccess)(f"status {answer.status}")
