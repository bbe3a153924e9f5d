"""What the clients know to be true, and what they have seen."""

import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from loadtest.noise import Noise
from loadtest.replay import TAG, Image
from registry_proxy.lazy.estargz.footer import TOC_DIGEST
from registry_proxy.oci.content import OCI_MANIFEST
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.lazy.layers import estargz, sha256

BLOBS: Final = 24
LISTED: Final = 4
"""Of these, layers with a table of contents (eStargz) that nobody asks for as a whole: no digest speaks of them but those in there."""

TAIL: Final = 64 << 10
"""Bytes of such a layer that hold its table of contents and what no digest in there covers: more than there are."""

IN_MEMORY: Final = 75.0
"""Seconds in which the instance has tried again to open records that it could not use (a minute, and a little)."""

FILE: Final = 40_000
"""Bytes that files of these layers are cut into."""

SMALLEST, LARGEST = 100_000, 6_000_000


class Truth:
    """The image, and which of its blobs an instance with these records must know the digests of.

    A blob counts as verified once a client has had all of it: its end is held back until the digest is right, and until that is
    written down. A fault that may take the records away makes everything unsure again; for a while after one, what is known may be
    in the instance's memory only.
    """

    def __init__(self, upstream: FakeUpstream, seed: int) -> None:
        dice = random.Random(seed)
        blobs: list[Noise | bytes] = [Noise(dice.randrange(SMALLEST, LARGEST), seed) for seed in range(BLOBS - LISTED)]
        layers = [estargz(_files(dice), chunk=FILE) for _ in range(LISTED)]
        self.sizes = tuple(map(len, (*blobs, *(layer for layer, _ in layers))))
        self.listed = range(BLOBS - LISTED, BLOBS)
        self.image = _image(upstream, [*blobs, *(layer for layer, _ in layers)], [sha256(toc) for _, toc in layers])
        self._verified: set[int] = set()
        self._in_memory_until = 0.0

    def blob(self, number: int) -> Noise | bytes:
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


def _files(dice: random.Random) -> dict[str, bytes]:
    return {str(number): dice.randbytes(dice.randrange(1000, 3 * FILE)) for number in range(dice.randrange(10, 40))}


def _image(upstream: FakeUpstream, blobs: list[Noise | bytes], tocs: list[str]) -> Image:
    """Put an image of these blobs into an upstream, tagged; the last ones have these TOCs."""
    digests = tuple(Digest.of(blob) if isinstance(blob, bytes) else blob.digest() for blob in blobs)
    for digest, blob in zip(digests, blobs, strict=True):
        upstream.content[digest] = blob  # type: ignore[assignment]  # all that the fake asks of bytes
        upstream.members.add((REPOSITORY, digest))
    described: list[dict[str, object]] = [
        {"mediaType": "application/octet-stream", "digest": str(digest), "size": len(blob)}
        for digest, blob in zip(digests, blobs, strict=True)
    ]
    for descriptor, toc in zip(described[-len(tocs) :], tocs, strict=True):
        descriptor["annotations"] = {TOC_DIGEST: toc}
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": described[1:]}
    text = json.dumps(manifest).encode()
    return Image(upstream.add_manifest(text, tag=TAG), text, digests, tuple(blobs))  # type: ignore[arg-type]


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
