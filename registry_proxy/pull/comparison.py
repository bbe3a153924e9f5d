"""Frames of a blob compared with what its table of contents (TOC) says of them, and when wrong bytes are believed rather than the TOC."""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from registry_proxy.lazy.frames import Frames
from registry_proxy.plan.chunks import Grid, Slice
from registry_proxy.plan.coverage import covered
from registry_proxy.tiers.openfiles import StoredChunk

_MOST_INFLATED: Final = 1 << 30
"""Bytes that are inflated for one chunk: some seconds of the thread. What zeros pack a chunk with beyond that is not compared."""

_INSISTS: Final = 3
"""Times that the same wrong bytes come until they are believed rather than the TOC..."""

_FOR: Final = 120.0
"""... and the seconds over which they come. A zTOC, which whoever may push to the repository can name, is not defended that long."""


class Found(NamedTuple):
    """Frames that were compared: the numbers of the right ones, and of the wrong ones with the sha-256 of their chunks."""

    right: list[int]
    wrong: dict[int, tuple[bytes, ...]]


def compare(frames: Frames, grid: Grid, index: int, new: Collection[int], chunks: Mapping[int, StoredChunk]) -> Found:
    """Compare those of the new frames that chunk ``index`` and the others cover; raises OSError. Takes a while: call it in a thread."""
    data: dict[int, bytes] = {}

    def taken(piece: Slice) -> bytes:
        if piece.index not in data:
            chunk = chunks[piece.index]
            data[piece.index] = chunk.read(0, chunk.length)
        return data[piece.index][piece.start : piece.stop]

    found, left = Found([], {}), _MOST_INFLATED
    for number in covered(frames.spans, grid, index, chunks.__contains__):
        left -= frames.plain(number) if number in new else 0
        if number in new and left >= 0:
            span = frames.spans[number]
            if frames.is_right(number, b"".join(map(taken, grid.slices(span)))):
                found.right.append(number)
            else:
                found.wrong[number] = tuple(chunks[one].sha256 for one in grid.touched(span))
    return found


@dataclass(slots=True)
class _Version:
    """Wrong bytes of a frame, by the sha-256 of their chunks; they came so many times, first at ``since`` (the loop's clock)."""

    sums: tuple[bytes, ...]
    since: float
    times: int = 0


class Insistence:
    """What came last of the frames that were found wrong: where the same bytes come again and again, the TOC may be what is wrong.

    ``patient``: they have to go on for long.
    """

    def __init__(self, *, patient: bool) -> None:
        self._lasting = _FOR if patient else 0.0
        self._versions: dict[int, _Version] = {}

    def note(self, number: int, sums: tuple[bytes, ...]) -> bool:
        """Note that a frame was wrong; True if it was so in the same way often and for long enough."""
        now, version = asyncio.get_running_loop().time(), self._versions.get(number)
        if version is None or version.sums != sums:
            version = self._versions[number] = _Version(sums, now)
        version.times += 1
        return version.times >= _INSISTS and now - version.since >= self._lasting

    def forget(self, numbers: Iterable[int]) -> None:
        """These frames were right after all."""
        if self._versions:
            for number in numbers:
                self._versions.pop(number, None)

    def clear(self) -> None:
        """Forget everything."""
        self._versions.clear()
