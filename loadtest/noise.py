"""Blobs of any size that are computed where they are read: the same bytes for the same seed, nothing kept."""

import hashlib
import random
from functools import cache
from typing import Final

from registry_proxy.oci.digest import Digest

PERIOD: Final = 1_048_583  # a prime: bytes that belong a whole number of chunks away are wrong bytes


class Noise:
    """As much of `bytes` as a server needs to send a blob: its length and its slices."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._table = _table(seed)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, wanted: slice) -> bytes:
        """The bytes of a slice without a step."""
        start, stop, _ = wanted.indices(self._size)
        parts = []
        while start < stop:
            at = start % PERIOD
            parts.append(self._table[at : at + stop - start])
            start += len(parts[-1])
        return b"".join(parts)

    def digest(self) -> Digest:
        """The sha-256 of the whole blob."""
        whole, rest = divmod(self._size, PERIOD)
        total = hashlib.sha256()
        for _ in range(whole):
            total.update(self._table)
        total.update(self._table[:rest])
        return Digest("sha256", total.hexdigest())


@cache
def _table(seed: int) -> bytes:
    return random.Random(seed).randbytes(PERIOD)
