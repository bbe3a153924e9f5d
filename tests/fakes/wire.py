"""A client that sends exactly the bytes it is told to and sees exactly what comes back."""

import asyncio
import ssl
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from types import TracebackType
from typing import Self

import msgspec
from multidict import CIMultiDict


@dataclass(frozen=True)
class Answer:
    """What came back. ``complete``: the body had its promised length."""

    status: int
    headers: CIMultiDict[str]
    body: bytes
    complete: bool = True

    @property
    def codes(self) -> list[str]:
        """The error codes of an OCI error body."""
        return [error["code"] for error in msgspec.json.decode(self.body)["errors"]]

    @property
    def parts(self) -> list[tuple[str, bytes]]:
        """Content-Range and bytes of each part of a multipart/byteranges body."""
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message: Message = BytesParser().parsebytes(head + self.body)
        payload = message.get_payload()
        assert isinstance(payload, list)
        raw = self.body.split(b"--" + str(message.get_boundary()).encode())[1:-1]
        return [
            (part["Content-Range"], bytes_.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"))
            for part, bytes_ in zip(payload, raw, strict=True)
        ]


class Wire:
    """One connection. ``address``: host and port, or the path of a Unix socket; ``tls``: what the client trusts and shows."""

    def __init__(self, address: tuple[str, int] | str, tls: ssl.SSLContext | None = None) -> None:
        self._address = address
        self._tls = tls

    async def __aenter__(self) -> Self:
        if isinstance(self._address, str):
            self.reader, self.writer = await asyncio.open_unix_connection(self._address, limit=1 << 20)
        else:
            self.reader, self.writer = await asyncio.open_connection(*self._address, limit=1 << 20, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.transport.abort()

    async def ask(self, target: str, *headers: str, method: str = "GET") -> Answer:
        """One request and its answer."""
        self.send(target, *headers, method=method)
        return await self.answer(method)

    def send(self, target: str, *headers: str, method: str = "GET") -> None:
        """One request."""
        lines = [f"{method} {target} HTTP/1.1", "Host: test", *headers, "", ""]
        self.writer.write("\r\n".join(lines).encode("latin-1"))

    async def head(self) -> tuple[int, CIMultiDict[str]]:
        """Status and headers of the next answer."""
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = CIMultiDict((line.split(": ", 1)[0], line.split(": ", 1)[1]) for line in lines if line)
        return int(first.split(" ")[1]), headers

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer."""
        status, headers = await self.head()
        if method == "HEAD" or status == 304:
            return Answer(status, headers, b"")
        try:
            return Answer(status, headers, await self.reader.readexactly(int(headers["Content-Length"])))
        except asyncio.IncompleteReadError as error:
            return Answer(status, headers, error.partial, complete=False)

    async def closed(self) -> bool:
        """True once the server has closed the connection with nothing more to say."""
        return await self.reader.read(1) == b""
