"""A typed table of records: a bounded memory in front, the database behind.

What is put is in memory at once and on disk as soon as the thread gets to it. ``peek`` looks into memory only and never waits.
"""

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

MEMORY: Final = 8 << 20
_ENTRY: Final = 256
_CLOCK_TOLERANCE: Final = 300.0


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A record as it lies on disk. ``written``, ``ttl``: seconds (since the epoch; how long it is good for, None: for ever)."""

    body: msgspec.Raw
    written: float
    ttl: float | None = None


class Backing(Protocol):
    """Where records go: bytes by key, in another thread."""

    def read(self, key: str) -> Awaitable[bytes | None]:
        """The bytes under a key."""

    def write(self, items: list[tuple[str, bytes]]) -> Awaitable[bool]:
        """Keep these. True if they are on disk."""

    def remove(self, keys: list[str]) -> Awaitable[None]:
        """Forget these."""


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    value: T
    written: float
    ttl: float | None
    weight: int


class Table(Generic[T]):
    """Records of one struct. ``memory``: bytes of them kept in front of the database, the least recently used leave."""

    def __init__(
        self, name: str, kind: type[T], backing: Backing, clock: Callable[[], float], memory: int = MEMORY
    ) -> None:
        self._prefix = f"{name}:"
        self._backing = backing
        self._clock = clock
        self._limit = memory
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()
        self._weight = 0
        self._reading: Counter[str] = Counter()
        self._changed: set[str] = set()  # of those that are being read

    def peek(self, key: str) -> T | None:
        """The record, if it is in memory and good."""
        kept = self._kept.get(key)
        if kept is None or not self._is_good(kept.written, kept.ttl):
            return None
        self._kept.move_to_end(key)
        return kept.value

    async def get(self, key: str) -> T | None:
        """The record, if there is a good one that can be read."""
        if key in self._kept:
            return self.peek(key)
        packed = await self._read(key)
        if packed is None or key in self._kept:
            return self.peek(key)
        kept = self._unpack(packed)
        if kept is None:
            return None
        self._keep(key, kept)
        return kept.value

    async def _read(self, key: str) -> bytes | None:
        """What the disk has; nothing if it was put or deleted meanwhile, since that may be what was before."""
        self._reading[key] += 1
        try:
            packed = await self._backing.read(self._prefix + key)
            return None if key in self._changed else packed
        finally:
            self._reading[key] -= 1
            if not self._reading[key]:
                del self._reading[key]
                self._changed.discard(key)

    async def put(self, key: str, value: T, ttl: float | None = None) -> bool:
        """Keep a record, for ``ttl`` seconds or for ever. False if only memory has it."""
        return await self.put_many([(key, value)], ttl)

    async def put_many(self, items: Iterable[tuple[str, T]], ttl: float | None = None) -> bool:
        """Keep some records; on disk they arrive together. False if only memory has them."""
        written = self._clock()
        packed: list[tuple[str, bytes]] = []
        for key, value in items:
            body = msgspec.msgpack.encode(value)
            self._change(key)
            self._keep(key, _Kept(value, written, ttl, len(body) + len(key) + _ENTRY))
            packed.append((self._prefix + key, msgspec.msgpack.encode(Envelope(msgspec.Raw(body), written, ttl))))
        return await self._backing.write(packed)

    async def delete(self, key: str) -> None:
        """Forget a record."""
        self._change(key)
        self._drop(key)
        await self._backing.remove([self._prefix + key])

    def _change(self, key: str) -> None:
        if key in self._reading:
            self._changed.add(key)

    def _is_good(self, written: float, ttl: float | None) -> bool:
        """A record from the future was written by a clock that has been set back since: how old it is nobody knows."""
        return ttl is None or -_CLOCK_TOLERANCE <= self._clock() - written < ttl

    def _unpack(self, packed: bytes) -> _Kept[T] | None:
        try:
            envelope = msgspec.msgpack.decode(packed, type=Envelope)
            value = self._decoder.decode(envelope.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if not self._is_good(envelope.written, envelope.ttl):
            return None
        return _Kept(value, envelope.written, envelope.ttl, len(packed) + _ENTRY)

    def _keep(self, key: str, kept: _Kept[T]) -> None:
        self._drop(key)
        self._kept[key] = kept
        self._weight += kept.weight
        while self._weight > self._limit and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._weight -= kept.weight
