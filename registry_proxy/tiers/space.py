"""Room on disk: what is held, what is promised to flights, and what has to go so that a promise can be kept.

A promise (``Room``) is made before a flight writes, counted at the most its chunks can take; every commit turns part of it into
held bytes, and the rest is given back. Held + promised never exceeds the limit, nor what the disk has left above a margin.
"""

from typing import Final

from registry_proxy.errors import StoreFull
from registry_proxy.tiers.accounts import Accounts
from registry_proxy.tiers.chunkfile import TRAILER, cost

_MARGIN: Final = 256 << 20
_SLACK: Final = 1 << 30


def margin(total: int) -> int:
    """Bytes of a disk of ``total`` bytes that are left to others: a hundredth, at most 256 MiB."""
    return min(_MARGIN, total // 100)


def default_limit(free: int, held: int) -> int:
    """A fifth of what the store could have: the free space and its own use."""
    return (free + held) // 5


class Room:
    """Bytes on disk promised to one flight. ``left``: what is not used up yet."""

    def __init__(self, space: "Space", size: int) -> None:
        self._space = space
        self.left = size
        self._released = False

    def take(self, size: int) -> None:
        """Use up part of it for a chunk about to be written; raises StoreFull if it is not enough."""
        if size > self.left:
            raise StoreFull(f"{size} bytes to write where {self.left} were left of the room reserved")
        self.left -= size

    def commit(self, taken: int, size: int) -> None:
        """What was taken has become ``size`` bytes of held chunks."""
        self._space.promised -= size
        self.give_back(taken - size)

    def give_back(self, size: int) -> None:
        """What was taken and not needed after all."""
        if self._released:
            self._space.promised -= size
        else:
            self.left += size

    def release(self) -> None:
        """Give back what is left. More than once is harmless."""
        self._space.promised -= self.left
        self.left = 0
        self._released = True


class Space:
    """The sums. ``limit``: bytes the store may hold; ``chunk_size``: bytes of a full chunk.

    ``uncounted``: bytes that an unclean stop may have left beyond the accounts, until the files are counted. ``leaving``: bytes
    of groups whose files are being removed. ``promised``: bytes of all rooms, those taken for a running write included.
    """

    def __init__(self, accounts: Accounts, limit: int, chunk_size: int) -> None:
        self._accounts = accounts
        self._chunk_size = chunk_size
        self.limit = limit
        self.uncounted = 0
        self.leaving = 0
        self.promised = 0

    @property
    def held(self) -> int:
        """Bytes on disk, or more where they are not counted yet."""
        return self._accounts.bytes + self.uncounted + self.leaving

    def cost_of(self, nbytes: int) -> int:
        """The most that ``nbytes`` of a blob, from a chunk's start, take on disk."""
        full, rest = divmod(nbytes, self._chunk_size)
        return full * cost(self._chunk_size + TRAILER) + (cost(rest + TRAILER) if rest else 0)

    def shortfall(self, want: int, free: int, total: int) -> int:
        """Bytes that must go before ``want`` more may be promised; negative or 0 if none. ``free``, ``total``: of the disk.

        What others use of the disk makes the store give way only when it wants to write itself.
        """
        wanted = self.promised + want
        beyond_limit = self.held + wanted - self.limit
        return max(beyond_limit, wanted + margin(total) - free) if wanted else beyond_limit

    def promise(self, want: int) -> Room:
        """Promise ``want`` bytes; the caller has seen to it that there is no shortfall."""
        self.promised += want
        return Room(self, want)

    def bound(self, want: int) -> int:
        """Bytes that will not be exceeded for a while after ``want`` more are promised: written down for an unclean stop."""
        promised = self.held + self.promised + want
        return max(min(promised + _SLACK, self.limit), promised)
