"""How a body can go wrong, and the gate that holds it back."""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """The connection closes after so many bytes of the body, short of the Content-Length."""

    after: int


@dataclass(frozen=True)
class Short:
    """The body ends cleanly, with so many bytes fewer than it should have (and a Content-Length to match)."""

    by: int


@dataclass(frozen=True)
class Long:
    """The body has so many bytes more than it should have (and a Content-Length to match)."""

    by: int


@dataclass(frozen=True)
class Endless:
    """The body never ends; it is chunked, so no Content-Length warns of it."""


@dataclass(frozen=True)
class Garbled:
    """The right number of wrong bytes."""


@dataclass(frozen=True)
class Flipped:
    """One bit of this byte of the blob is wrong."""

    at: int


@dataclass(frozen=True)
class WrongRange:
    """A 206 says this in its Content-Range."""

    header: str


@dataclass(frozen=True)
class Encoded:
    """The answer claims a Content-Encoding."""

    encoding: str = "gzip"


@dataclass(frozen=True)
class Chunked:
    """The right bytes, but no Content-Length."""


@dataclass(frozen=True)
class LoginPage:
    """200 with an HTML page, as a captive portal or a single-sign-on front end gives."""

    html: bytes = b"<!DOCTYPE html><html><body>Please log in.</body></html>"


BodyFault = Cut | Short | Long | Endless | Garbled | Flipped | WrongRange | Encoded | Chunked | LoginPage


class Gate:
    """Holds bodies back: bytes pass only as a test releases them, in the order in which bodies ask.

    ``release(n)`` lets n more bytes pass, ``open()`` all that ever come. ``await blocked()`` returns when a body has used up
    what was released and waits for more.
    """

    def __init__(self, released: int = 0) -> None:
        self._left = released
        self._open = False
        self._waiting = 0
        self._changed = asyncio.Event()

    async def take(self, wanted: int) -> int:
        """Wait until at least one of ``wanted`` bytes may pass; how many of them may."""
        self._waiting += 1
        self._tell()
        try:
            while not (self._open or self._left):
                await self._changed.wait()
        finally:
            self._waiting -= 1
        granted = wanted if self._open else min(wanted, self._left)
        self._left -= min(granted, self._left)
        return granted

    def release(self, count: int) -> None:
        """Let so many more bytes pass."""
        self._left += count
        self._tell()

    def open(self) -> None:
        """Let everything pass from now on."""
        self._open = True
        self._tell()

    async def blocked(self, bodies: int = 1) -> None:
        """Wait until so many bodies wait at the gate with nothing left to pass."""
        while self._left or self._waiting < bodies:
            await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
