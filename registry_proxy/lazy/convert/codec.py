"""gzip at the speed that is to be had: by isal if it is installed (the extra ``lazy``), else by the standard library.

isal's output differs from run to run at levels above 0 (it compares with memory that it does not clear), so that a copy is made once
and kept, never made anew under its old digest.
"""

import zlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Final, Protocol, cast

fast: ModuleType | None
"""isal's drop-in for ``zlib``, or None."""
try:
    from isal import isal_zlib as fast
except ImportError:  # the extra is not installed
    fast = None

_GZIP: Final = 31
_FASTEST: Final = 3
"""isal's levels end here."""

BROKEN: Final[tuple[type[Exception], ...]] = (zlib.error, *((fast.error,) if fast else ()))
"""What a decompressor raises for bytes that are no sound gzip stream."""


class Gunzipper(Protocol):
    """A decompressor of one gzip member (``zlib.decompressobj``)."""

    @property
    def eof(self) -> bool:
        """The member's end has been reached."""

    @property
    def unconsumed_tail(self) -> bytes:
        """Input for which there was no room in the output."""

    @property
    def unused_data(self) -> bytes:
        """Input behind the member's end."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """The next bytes of the content, ``max_length`` at most."""


def gunzipper() -> Gunzipper:
    """A decompressor of one gzip member."""
    return cast("Gunzipper", (fast or zlib).decompressobj(_GZIP))


def gzipper(level: int) -> Callable[[bytes], bytes]:
    """What makes a gzip member of some bytes; levels as in ``Options.level``. Releases the interpreter while it works."""
    if fast and level <= _FASTEST:
        return partial(_member, fast, level)
    return partial(_member, zlib, max(level, 1))


def _member(library: ModuleType, level: int, data: bytes) -> bytes:
    return bytes(library.compress(data, level, _GZIP))
