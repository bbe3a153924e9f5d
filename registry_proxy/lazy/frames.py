"""What digests say about a layer's bytes, frame by frame: small enough to be kept while a layer is read, and no files in it."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from registry_proxy.lazy.failures import IndexInvalid
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.coverage import Spans

Inflate = Callable[[bytes], Iterator[bytes]]
"""The uncompressed bytes of one frame, in pieces of bounded size; raises IndexInvalid."""

LARGEST: Final = 16 << 20
"""Bytes of a frame that is compared; of a larger one nobody wants to wait for the chunks, nor hold them in memory."""

_INFLATED: Final = 64 << 20
"""Bytes of an inflated frame that are held at a time; builders cut files at 4 MiB."""

_BEHIND: Final = 1 << 20
"""Bytes behind a frame's contents (headers of files that have none) that are inflated for the sake of the checksum after them."""

_MOST_CONTENTS: Final = 1 << 16
_SUM: Final = 32


class Content(NamedTuple):
    """Bytes ``[inner, inner + size)`` of an inflated frame, and their sha-256."""

    inner: int
    size: int
    sha256: bytes


class Frames:
    """The frames of a layer that can be compared. ``inflate``: None where the sums are those of the layer's bytes themselves."""

    def __init__(self, found: Mapping[Span, Sequence[Content]], inflate: Inflate | None) -> None:
        self._inflate = inflate
        kept = {span: contents for span, contents in found.items() if _is_bearable(span, contents)}
        self.spans = Spans(kept)
        self._first = array("Q", [0])  # of the contents of each frame
        self._plain = array("Q")
        self._inner = array("Q")
        self._sizes = array("Q")
        sums = bytearray()
        for span in sorted(kept):
            for content in kept[span]:
                self._inner.append(content.inner)
                self._sizes.append(content.size)
                sums += content.sha256
            self._first.append(len(self._inner))
            self._plain.append(_held(kept[span]))
        self._sums = bytes(sums)

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def weight(self) -> int:
        """Bytes of memory, about."""
        return 40 * len(self.spans) + (16 + _SUM) * len(self._inner)

    def plain(self, number: int) -> int:
        """Bytes of a frame's contents: what comparing it costs."""
        return self._plain[number]

    def is_right(self, number: int, frame: bytes) -> bool:
        """True if these bytes hold what the digests say. Takes a while: call it in a thread."""
        contents = range(self._first[number], self._first[number + 1])
        try:
            plain = memoryview(frame if self._inflate is None else _inflated(self._inflate, frame, self._plain[number]))
        except IndexInvalid:
            return False
        return all(self._matches(content, plain) for content in contents)

    def _matches(self, content: int, plain: memoryview) -> bool:
        at, size = self._inner[content], self._sizes[content]
        found = hashlib.sha256(plain[at : at + size]).digest()
        return len(plain) >= at + size and found == self._sums[_SUM * content : _SUM * (content + 1)]


def _is_bearable(span: Span, contents: Sequence[Content]) -> bool:
    """False for frames that would cost too much, as no builder makes them."""
    hashed = sum(content.size for content in contents)
    return len(span) <= LARGEST and max(_held(contents), hashed) <= _INFLATED and len(contents) <= _MOST_CONTENTS


def _held(contents: Sequence[Content]) -> int:
    """How far into an inflated frame its contents reach."""
    return max(content.inner + content.size for content in contents)


def _inflated(inflate: Inflate, frame: bytes, wanted: int) -> bytearray:
    """The frame inflated to its end, where a checksum of its own may stand; of a bomb only so much more than is wanted."""
    plain = bytearray()
    for piece in inflate(frame):
        plain += piece
        if len(plain) > wanted + _BEHIND:
            break
    return plain
