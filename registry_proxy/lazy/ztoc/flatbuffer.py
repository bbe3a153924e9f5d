"""FlatBuffers, as much as a zTOC needs: written back to front in the order of the caller, byte for byte as the Go library does.

Own code because equality of the bytes is the point, for which another library's layout would have to stay what it is, and because
a layer has many thousand tables of one form, whose layout is worked out once here.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from registry_proxy.lazy.failures import IndexInvalid

_U16: Final = struct.Struct("<H")
_I32: Final = struct.Struct("<i")
_U32: Final = struct.Struct("<I")

Field = tuple[int, str, int, int]
"""Slot in the schema, kind, value, default. Kinds: ``o`` the offset of something written before, else a letter of struct."""

_SIZES: Final = {"o": 4, "b": 1, "i": 4, "I": 4, "q": 8}
_PACK: Final = {kind: struct.Struct(f"<{kind}") for kind in "biIq"}
_ZEROS: Final = tuple(bytes(count) for count in range(9))


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a table of these fields lies that begins at a distance with these low bits: the same for thousands of them.

    ``form``: head and fields, from the front; ``places``: of each field, from where the table begins; ``vtable``: from its head.
    """

    form: struct.Struct
    size: int
    places: tuple[int, ...]
    vtable: tuple[int, ...]
    align: int

    @classmethod
    def of(cls, begin: int, fields: Sequence[Field]) -> "_Plan":
        at, letters, places = begin, "", {}
        for slot, kind, _, _ in (*fields, (-1, "i", 0, 0)):  # the head, written last, leads to the vtable
            padding = -at % _SIZES[kind]
            at += padding + _SIZES[kind]
            letters = f"{'I' if kind == 'o' else kind}{'x' * padding}{letters}"
            places[slot] = at - begin
        size = places.pop(-1)
        slots = range(max(places, default=-1) + 1)
        vtable = tuple(size - places[slot] if slot in places else 0 for slot in slots)
        align = max((_SIZES[kind] for _, kind, _, _ in fields), default=4)
        return cls(struct.Struct(f"<{letters}"), size, tuple(places.values()), vtable, max(align, 4))


class Writer:
    """What is written is named by its distance from the buffer's end."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # the last one stands first in the buffer
        self._size = 0
        self._align = 1
        self._vtables: dict[tuple[int, ...], int] = {}
        self._plans: dict[tuple[object, ...], _Plan] = {}

    def string(self, data: bytes) -> int:
        """A string, with its length before it and a zero byte, then padding, behind."""
        count = len(data)
        padding = 1 + (-(self._size + count + 1) & 3)
        self._parts.append(b"%b%b%b" % (_U32.pack(count), data, _ZEROS[padding]))
        self._size += 4 + count + padding
        if self._align < 4:
            self._align = 4
        return self._size

    def octets(self, data: bytes) -> int:
        """A vector of bytes."""
        self._pad(4, len(data))
        self._put(data)
        return self._put(_U32.pack(len(data)))

    def offsets(self, targets: Sequence[int]) -> int:
        """A vector of tables or strings written before."""
        count = len(targets)
        self._pad(4, 4 * count)
        end = self._size
        if count:  # most files have no records
            self._put(struct.pack(f"<{count}I", *(end + 4 * (count - i) - at for i, at in enumerate(targets))))
        return self._put(_U32.pack(count))

    def table(self, fields: Sequence[Field]) -> int:
        """A table; its fields are written in the order given, those that have their default not at all."""
        present = [field for field in fields if field[2] != field[3]]
        key = (self._size & 7, *[(slot, kind) for slot, kind, _, _ in present])
        plan = self._plans.get(key) or self._plans.setdefault(key, _Plan.of(self._size & 7, present))
        begin, at = self._size, self._size + plan.size
        values = [
            begin + place - value if kind == "o" else value
            for (_, kind, value, _), place in zip(present, plan.places, strict=True)
        ]
        known = self._vtables.get(plan.vtable)
        head = 2 * len(plan.vtable) + 4 if known is None else known - at
        self._align = max(self._align, plan.align)
        self._put(plan.form.pack(head, *reversed(values)))
        if known is None:
            self._put(struct.pack(f"<{len(plan.vtable) + 2}H", head, plan.size, *plan.vtable))
            self._vtables[plan.vtable] = self._size
        return at

    def finish(self, root: int) -> bytes:
        """The whole buffer."""
        self._pad(self._align, 4)
        self._put(_U32.pack(self._size + 4 - root))
        return b"".join(reversed(self._parts))

    def _pad(self, size: int, extra: int) -> None:
        if size > self._align:
            self._align = size
        missing = -(self._size + extra) % size
        if missing:
            self._put(_ZEROS[missing])

    def _put(self, data: bytes) -> int:
        self._parts.append(data)
        self._size += len(data)
        return self._size


class Buffer:
    """A buffer from anywhere. Every place is checked; in all no more text is handed out than four times the buffer's length."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._budget = 4 * len(data)

    def root(self) -> "Table":
        """The root table; raises IndexInvalid, as all that follows does."""
        return Table(self, self.number(_U32, 0))

    def number(self, kind: struct.Struct, at: int) -> int:
        """A number at a place."""
        if not 0 <= at <= len(self._data) - kind.size:
            raise IndexInvalid("a flatbuffer points outside itself")
        return int(kind.unpack_from(self._data, at)[0])

    def octets(self, at: int) -> bytes:
        """The string or vector of bytes at a place."""
        length = self.number(_U32, at)
        self._budget -= length
        if at + 4 + length > len(self._data) or self._budget < 0:
            raise IndexInvalid("a flatbuffer points outside itself, or has more text than bytes")
        return self._data[at + 4 : at + 4 + length]

    def places(self, at: int) -> list[int]:
        """Where the members of the vector of offsets at a place stand."""
        count = self.number(_U32, at)
        self._budget -= 4 * count
        if at + 4 + 4 * count > len(self._data) or self._budget < 0:
            raise IndexInvalid("a flatbuffer points outside itself")
        found = struct.unpack_from(f"<{count}I", self._data, at + 4)
        return [at + 4 + 4 * i + offset for i, offset in enumerate(found)]


class Table:
    """A table within a buffer; a field that is not there has its default."""

    __slots__ = ("_at", "_buffer", "_slots", "_vtable")

    def __init__(self, buffer: Buffer, at: int) -> None:
        self._buffer = buffer
        self._at = at
        self._vtable = at - buffer.number(_I32, at)
        self._slots = (buffer.number(_U16, self._vtable) - 4) // 2

    def number(self, slot: int, kind: str, default: int = 0) -> int:
        """A number of this kind (a letter of struct)."""
        at = self._place(slot)
        return default if at is None else self._buffer.number(_PACK[kind], at)

    def octets(self, slot: int) -> bytes:
        """A string or vector of bytes; empty if it is not there."""
        at = self._target(slot)
        return b"" if at is None else self._buffer.octets(at)

    def strings(self, slot: int) -> list[bytes]:
        """A vector of strings."""
        at = self._target(slot)
        return [] if at is None else [self._buffer.octets(place) for place in self._buffer.places(at)]

    def tables(self, slot: int) -> list["Table"]:
        """A vector of tables."""
        at = self._target(slot)
        return [] if at is None else [Table(self._buffer, place) for place in self._buffer.places(at)]

    def table(self, slot: int) -> "Table":
        """A table; raises IndexInvalid if it is not there."""
        at = self._target(slot)
        if at is None:
            raise IndexInvalid("a flatbuffer lacks a table")
        return Table(self._buffer, at)

    def _place(self, slot: int) -> int | None:
        if slot >= self._slots:
            return None
        offset = self._buffer.number(_U16, self._vtable + 4 + 2 * slot)
        return self._at + offset if offset else None

    def _target(self, slot: int) -> int | None:
        at = self._place(slot)
        return None if at is None else at + self._buffer.number(_U32, at)
