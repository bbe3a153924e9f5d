"""An answer as it goes on the wire: status line, ``Date``, headers, and what tells HTTP/1.0 and 1.1 whether the connection goes on
(RFC 9112 §9.3).

aiohttp's response classes cost more than all else that a hit needs. Headers are text from the start, since most of them are the same
for many answers.
"""

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11

Lines = str
"""Header lines as they are sent, each with its line break."""


def lines(*headers: tuple[str, str]) -> Lines:
    """These names and values as lines. Raises ValueError for a header that would become two."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers):
        raise ValueError(f"a line break in a header: {text!r}")
    return text


class Answer:
    """``headers``: everything but ``Date``, ``Connection`` and ``Content-Length``; ``length``: of the body, in bytes, None if nothing is
    said of it (RFC 9110 §8.6: 204 and 304); ``body``: None if there is none, as for HEAD, or if it follows."""

    __slots__ = ("body", "headers", "length", "status")

    def __init__(self, status: int, headers: Lines, length: int | None, body: bytes | None = None) -> None:
        self.status = status
        self.headers = headers
        self.length = length
        self.body = body

    def wire(self, request: web.BaseRequest) -> bytes:
        """The bytes that answer this request: all of them, or those before the body that follows."""
        length = "" if self.length is None else f"Content-Length: {self.length}\r\n"
        if request.version != HttpVersion11:
            connection = "Connection: keep-alive\r\n" if request.keep_alive else ""
        else:
            connection = "" if request.keep_alive else "Connection: close\r\n"
        first = _first_lines(self.status, int(time.time()))
        start = f"{first}{self.headers}{length}{connection}\r\n".encode("utf-8", "surrogateescape")
        return start + self.body if self.body is not None and request.method != "HEAD" else start


class Sent(web.StreamResponse):
    """What aiohttp is given in place of an answer that is on the wire already: it only looks whether the connection goes on."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._eof_sent = True
        self._keep_alive = keep_alive

    def force_close(self) -> None:
        """Nothing: whoever cuts an answer aborts its connection."""


Reply = Answer | Sent
"""What a handler comes to: an answer to be sent, or one that is on the wire."""

KEPT: Final = Sent(keep_alive=True)
CLOSED: Final = Sent(keep_alive=False)


@lru_cache(64)
def _first_lines(status: int, second: int) -> str:
    """The status line and ``Date``, which are the same for all answers of a second."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\nDate: {formatdate(second, usegmt=True)}\r\n"
