"""Which groups of chunks go when room is needed."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar


class Evictable(Protocol):
    """What the choice looks at. ``bytes``: what its going would free; ``pinned``: it is being read or written."""

    @property
    def bytes(self) -> int:
        """Bytes on disk."""

    @property
    def pinned(self) -> bool:
        """True while a chunk of it is open or being written."""


G = TypeVar("G", bound=Evictable)


def without(oldest_first: Iterable[G], spared: Callable[[G], bool], share: int) -> Iterator[G]:
    """The groups but those to be spared, as long as these are no more than ``share`` bytes."""
    left = share
    for group in oldest_first:
        if group.bytes <= left and spared(group):
            left -= group.bytes
        else:
            yield group


def choose(oldest_first: Iterable[G], need: int) -> list[G] | None:
    """The groups that were used longest ago and free ``need`` bytes together, leaving out pinned and empty ones.

    None if all that may go would not be enough: then nothing should, since what is wanted does not fit anyway.
    """
    chosen: list[G] = []
    for group in oldest_first:
        if need <= 0:
            break
        if not group.pinned and group.bytes > 0:
            chosen.append(group)
            need -= group.bytes
    return chosen if need <= 0 else None
