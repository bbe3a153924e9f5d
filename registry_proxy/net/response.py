"""A response whose headers are here and whose body is still to come."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import aiohttp

from registry_proxy.errors import UpstreamBroken, UpstreamUnreachable
from registry_proxy.oci import content
from registry_proxy.plan.origins import Origin


class Response:
    """``status``; ``headers`` (names in any case); ``url`` and ``origin`` that sent it; ``seconds`` from the request to the headers.

    The body is read once, by ``read`` or by ``pieces``.
    """

    def __init__(self, response: aiohttp.ClientResponse, url: str, origin: Origin, idle: float, seconds: float) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.origin = origin
        self.url = url
        self.seconds = seconds
        self._response = response
        self._idle = idle

    def all(self, name: str) -> list[str]:
        """Every header of that name."""
        return self._response.headers.getall(name, [])

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        self._response.close()

    @property
    def length(self) -> int | None:
        """Bytes of the body as Content-Length announces them; None without one that can be believed."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters, in lower case; empty without one that is a media type."""
        return content.media_type(self.headers.get("Content-Type", "").partition(";")[0].strip().lower())

    def refuse_encoding(self) -> None:
        """Raise UpstreamBroken if the body is encoded: identity was asked for, and digests are those of the plain bytes."""
        encoding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"identity", ""}:
            raise UpstreamBroken(
                f"{self.origin} sends Content-Encoding {encoding[:40]!r} though identity was asked for"
            )

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, in pieces of at most a MiB.

        Raises UpstreamUnreachable if it is cut or nothing comes for the idle timeout.
        """
        while True:
            try:
                async with asyncio.timeout(self._idle):
                    data = await self._response.content.readany()
            except TimeoutError as error:
                raise UpstreamUnreachable(f"{self.origin} sent nothing for {self._idle:g} s") from error
            except (aiohttp.ClientError, OSError) as error:
                raise UpstreamUnreachable(
                    f"{self.origin} broke off: {str(error)[:160] or type(error).__name__}"
                ) from error
            if not data:
                return
            yield data

    async def read(self, limit: int) -> bytes:
        """The whole body; raises UpstreamBroken if it has more than ``limit`` bytes, else what ``pieces`` raises."""
        body = bytearray()
        async for data in self.pieces():
            body += data
            if len(body) > limit:
                raise UpstreamBroken(f"{self.origin} sends more than {limit} bytes where no more can be right")
        return bytes(body)

    async def read_start(self, limit: int) -> bytes:
        """The first ``limit`` bytes of the body, or what comes of them: for the text of an error."""
        body = bytearray()
        try:
            async for data in self.pieces():
                body += data
                if len(body) >= limit:
                    break
        except UpstreamUnreachable:
            pass
        return bytes(body[:limit])
