"""gzip at the speed that is to be had: by isal if it is installed (the extra ``lazy``), else by the standard library.

isal's output differs from run to run at levels above 0 (it compares with memory that it does not clear), so that a copy is made once
and kept, never made anew under its old digest.
"""

import zlib
from collections.abc import Callable
from typing import Final, Protocol

try:
    from isal import isal_zlib
except ImportError:  # the extra is not installed
    isal_zlib = None  # type: ignore[assignment]

_GZIP: Final = 31
_FASTEST: Final = 3
"""isal's levels end here."""

BROKEN: Final[tuple[type[Exception], ...]] = (zlib.error, *((isal_zlib.error,) if isal_zlib else ()))
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
    return isal_zlib.decompressobj(_GZIP) if isal_zlib else zlib.decompressobj(_GZIP)


def gzipper(level: int) -> Callable[[bytes], bytes]:
    """What makes a gzip member of some bytes; levels as in ``Options.level``. Releases the interpreter while it works."""
    if isal_zlib and level <= _FASTEST:
        return lambda data: isal_zlib.compress(data, level, _GZIP)
    return lambda data: zlib.compress(data, max(level, 1), _GZIP)
