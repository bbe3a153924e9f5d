"""What a reader gets from a tier: open chunks.

A chunk stays readable until it is closed, whatever becomes of its file (an evicted file is unlinked, never truncated or reused).
"""

from dataclasses import dataclass
from typing import BinaryIO, Protocol


class Chunk(Protocol):
    """An open chunk. ``length``: its bytes; ``file``: an open file whose first ``length`` bytes are the chunk as it
    lies (for sendfile), or None where it has to be read through ``read``."""

    @property
    def length(self) -> int:
        """Bytes in the chunk."""

    @property
    def file(self) -> BinaryIO | None:
        """The open file, if its first ``length`` bytes are the chunk itself."""

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)`` of the chunk; raises OSError, never returns fewer."""

    def same_bytes(self) -> bool:
        """False if somebody has written to the chunk since it was opened: what was read of it after that may be wrong."""

    def close(self) -> None:
        """Give the chunk back. Reading it afterwards is a mistake of the caller's."""


@dataclass(frozen=True, slots=True)
class MemoryChunk:
    """A chunk that lives in memory only: where no store takes it, or a tier reads it piece by piece."""

    data: bytes
    file: BinaryIO | None = None

    @property
    def length(self) -> int:
        """Bytes in the chunk."""
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)`` of the chunk."""
        return self.data[start:stop]

    def same_bytes(self) -> bool:
        """True: nobody can."""
        return True

    def close(self) -> None:
        """Nothing to give back."""
