"""What a reader still wants of a blob.

Flights exist to serve wishes: a flight goes on while it overlaps one, and stops at the next chunk when none is left. A
wish moves forward with its reader; ``cursor`` runs ahead of the reader and marks what has been planned for.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from registry_proxy.plan.chunks import Run
from registry_proxy.sources.base import Priority


class Wish:
    """Chunks wanted, ascending and without repeats.

    ``position``: the reader is done with so many of the first; ``cursor``: so many are present or under way;
    ``partial``: its client asked for ranges; ``lagging``: others do not wait for this reader any more; ``waiting``: the chunk that the
    reader stands still for, or None; ``turn``: the chunk before which a reader that does not read in order jumps next, None for one
    that does.
    """

    def __init__(
        self, chunks: Sequence[int], priority: Priority = Priority.FOREGROUND, *, partial: bool = False
    ) -> None:
        self.chunks = chunks
        self.partial = partial
        self.priority = priority
        self.position = 0
        self.cursor = 0
        self.lagging = False
        self.waiting: int | None = None
        self.turn: int | None = None
        self._done: set[int] = set()
        self.contiguous = not chunks or len(chunks) == chunks[-1] - chunks[0] + 1

    def advance(self, index: int) -> None:
        """The reader is done with everything before chunk ``index``."""
        self.position = max(self.position, bisect_left(self.chunks, index))

    def finish(self, index: int) -> None:
        """The reader is done with one chunk, if not in order."""
        self._done.add(index)

    def rest(self) -> Sequence[int]:
        """What the reader is not done with."""
        left = self.chunks[self.position :]
        return [index for index in left if index not in self._done] if self._done else left

    def rewind(self, index: int) -> None:
        """Chunk ``index`` turned out to be missing: plan again from there."""
        self.cursor = min(self.cursor, bisect_left(self.chunks, index))

    def extend(self, stop: int) -> None:
        """Want every chunk up to ``stop`` as well; only for contiguous wishes."""
        if self.chunks and stop > self.chunks[-1] + 1:
            self.chunks = range(self.chunks[0], stop)

    def touches(self, first: int, stop: int) -> bool:
        """True if a chunk in ``[first, stop)`` is still wanted."""
        chunks = self.chunks
        at = bisect_left(chunks, first, self.position)
        while at < len(chunks) and chunks[at] < stop:
            if chunks[at] not in self._done:
                return True
            at += 1
        return False

    def run_waited_for(self, absent: Callable[[int], bool], longest: int) -> Run | None:
        """What a reader who jumps needs right now and no more: from the chunk it waits for to its next turn."""
        if self.waiting is None or self.turn is None or not absent(self.waiting):
            return None
        stop = self.waiting + 1
        while stop < min(self.turn, self.waiting + longest) and absent(stop):
            stop += 1
        return Run(self.waiting, stop)

    def next_run(self, absent: Callable[[int], bool], longest: int) -> Run | None:
        """The next run of adjacent wanted chunks that are absent; moves the cursor past it and past what is not absent."""
        chunks = self.chunks
        self.cursor = max(self.cursor, self.position)
        while self.cursor < len(chunks) and (chunks[self.cursor] in self._done or not absent(chunks[self.cursor])):
            self.cursor += 1
        if self.cursor == len(chunks):
            return None
        first = stop = chunks[self.cursor]
        while self.cursor < len(chunks) and chunks[self.cursor] == stop and stop - first < longest and absent(stop):
            stop += 1
            self.cursor += 1
        return Run(first, stop)
