"""What the clients know to be true, and what they have seen."""

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from loadtest.noise import Noise
from loadtest.replay import Image, Pattern, stock
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from tests.fakes.upstream import FakeUpstream

BLOBS: Final = 24
IN_MEMORY: Final = 75.0
"""Seconds in which the instance has tried again to open records that it could not use (a minute, and a little)."""

SMALLEST, LARGEST = 100_000, 6_000_000


class Truth:
    """The image, and which of its blobs an instance with these records must know the digests of.

    A blob counts as verified once a client has had all of it: its end is held back until the digest is right, and until that is
    written down. A fault that may take the records away makes everything unsure again; for a while after one, what is known may be
    in the instance's memory only.
    """

    def __init__(self, upstream: FakeUpstream, seed: int) -> None:
        dice = random.Random(seed)
        self.sizes = tuple(dice.randrange(SMALLEST, LARGEST) for _ in range(BLOBS))
        self.image: Image = stock(upstream, Pattern("chaos", self.sizes, ()))
        self._verified: set[int] = set()
        self._in_memory_until = 0.0

    def blob(self, number: int) -> Noise:
        """The bytes of a blob."""
        return self.image.blobs[number]

    def digest(self, number: int) -> Digest:
        """Its name."""
        return self.image.digests[number]

    def right(self, number: int, span: Span, found: bytes) -> bool:
        """True if these are the bytes of a span."""
        return found == self.blob(number)[span.start : span.stop]

    def difference(self, number: int, at: int, found: bytes) -> str:
        """What is wrong with bytes of a blob that begin at ``at``: how many, from where, and how the first one differs."""
        wrong = [
            (at + offset, one ^ other)
            for offset, (one, other) in enumerate(zip(found, self.blob(number)[at : at + len(found)], strict=True))
            if one != other
        ]
        return (
            f"{len(wrong)} bytes from {wrong[0][0]} to {wrong[-1][0]}, first by {wrong[0][1]:#x}" if wrong else "none"
        )

    def had_whole(self, number: int) -> None:
        """A client had all of a blob, and it was right."""
        self._verified.add(number)

    def is_verified(self, number: int) -> bool:
        """True if the instance can tell right from wrong for every chunk of it."""
        return number in self._verified

    def unsure(self) -> None:
        """The records may be gone, and may stay in memory for a while."""
        self._verified.clear()
        self._in_memory_until = time.monotonic() + IN_MEMORY

    def ended(self) -> None:
        """The process has ended, and its memory with it."""
        if time.monotonic() < self._in_memory_until:
            self._verified.clear()


@dataclass
class Tally:
    """What was seen. ``wrongs``: what must never happen, in words; ``undigested``: wrong ranges of blobs that no digest covered yet."""

    asked: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    wrongs: list[str] = field(default_factory=list)
    retries: int = 0
    bytes: int = 0
    undigested: int = 0
    most_memory: int = 0
    longest: float = 0.0
