"""An answer that is complete in memory, written to the connection by one write.

aiohttp's response classes cost more than all else that a hit needs; what they do for an answer of known length is done here: the
status line, ``Date``, and what tells HTTP/1.0 and 1.1 whether the connection goes on (RFC 9112 §9.3).
"""

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11

_BODILESS: Final = frozenset({204, 304})
"""Statuses without a body, and without a length of one that was not stated (RFC 9110 §8.6)."""


class Answer:
    """``headers``: in order, names and values, everything but ``Date`` and ``Connection``; ``body``: None where there is none."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: tuple[tuple[str, str], ...], body: bytes | None = None) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def wire(self, request: web.BaseRequest) -> bytes:
        """The bytes that answer this request. Raises ValueError for a header that would become two."""
        status, body, stated = self.status, self.body, self.status in _BODILESS
        lines = [_first_lines(status, int(time.time()))]
        for name, value in self.headers:
            if "\n" in value or "\r" in value:
                raise ValueError(f"a line break in {name}")
            stated = stated or name == "Content-Length"
            lines.append(f"{name}: {value}\r\n")
        if not stated:
            lines.append(f"Content-Length: {len(body or b'')}\r\n")
        if request.version != HttpVersion11:
            lines.append("Connection: keep-alive\r\n\r\n" if request.keep_alive else "\r\n")
        else:
            lines.append("\r\n" if request.keep_alive else "Connection: close\r\n\r\n")
        start = "".join(lines).encode("utf-8", "surrogateescape")
        return start + body if body is not None and request.method != "HEAD" else start


class Sent(web.StreamResponse):
    """What aiohttp is given in place of an answer that is on the wire already: it only looks whether the connection goes on."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._eof_sent = True
        self._keep_alive = keep_alive

    def force_close(self) -> None:
        """Nothing: whoever cuts an answer aborts its connection."""


Reply = Answer | web.StreamResponse
"""What a handler comes to: an answer to be sent, or aiohttp's of one whose body is on its way."""

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
