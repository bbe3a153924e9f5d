"""What a reader of a blob hands to whoever writes the body: pieces of open chunks, in order."""

import msgspec

from registry_proxy.tiers.base import Chunk


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Bytes ``[start, stop)`` of an open chunk. ``tier``: where it came from, for the log line and the metrics.

    The piece is the receiver's until it asks for the next one; the reader closes the chunk then.
    """

    chunk: Chunk
    start: int
    stop: int
    tier: str

    def __len__(self) -> int:
        return self.stop - self.start

    def read(self) -> bytes:
        """All bytes of the piece."""
        return self.chunk.read(self.start, self.stop)
