"""The entries of a tar that streams by, as Go's archive/tar sees them: what the reference builder writes into a zTOC.

Names are bytes, as they stand in the archive. What Go's reader refuses is refused, and so are the forms for which a zTOC cannot
be right: sparse files (their bytes are not where the entry says), global PAX headers, links that carry data (the reference tool
refuses the first two or writes an index its own client rejects).
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from registry_proxy.lazy.failures import LayerRefused

BLOCK: Final = 512
_ZEROS: Final = bytes(BLOCK)
_LONGEST_META: Final = 1 << 20
"""Bytes of a PAX header or GNU long name: Go's limit."""

_KINDS: Final = {
    b"0": "reg",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "char",
    b"4": "block",
    b"5": "dir",
    b"6": "fifo",
}
_META: Final = (b"x", b"L", b"K")
_NUMBER: Final = re.compile(rb"[+-]?[0-9]+\Z")
_TIME: Final = re.compile(rb"([+-]?[0-9]+)(?:\.([0-9]*))?\Z")
_TEXT_KEYS: Final = (b"path", b"linkpath", b"uname", b"gname")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry. ``offset``: of its payload in the tar; ``modified``: RFC 3339 in UTC, empty if beyond the year 9999;
    ``records``: all PAX records, sorted by key."""

    name: bytes
    kind: str
    offset: int
    size: int
    link: bytes
    mode: int
    uid: int
    gid: int
    owner: bytes
    group: bytes
    modified: bytes
    major: int
    minor: int
    records: tuple[tuple[bytes, bytes], ...]


class TarScanner:
    """Feed it the tar; ``receive`` gets each entry when its header has passed. Payloads are skipped, not held."""

    def __init__(self, largest: int, receive: Callable[[Entry], None]) -> None:
        self._largest = largest
        self._receive = receive
        self._held = bytearray()
        self._want = BLOCK
        self._skip = self._pad = 0
        self._meta: tuple[bytes, int] | None = None  # kind and size of the payload being collected
        self._records: dict[bytes, bytes] = {}
        self._long: dict[bytes, bytes] = {}
        self._zero_seen = False
        self.ended = False
        self.position = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the tar; whatever follows its end is ignored. Raises LayerRefused."""
        at, count = 0, len(data)
        while at < count and not self.ended:
            if self._skip:
                step = min(self._skip, count - at)
                self._skip -= step
            else:
                step = min(self._want - len(self._held), count - at)
                self._held += data[at : at + step]
            at += step
            self.position += step
            if not self._skip and len(self._held) == self._want:
                held = bytes(self._held)
                self._held.clear()
                self._block(held)

    def finish(self) -> None:
        """Nothing follows; raises LayerRefused if an entry is cut short. A missing end mark is not an error."""
        if not self.ended and (self._held or self._meta or self._skip > self._pad):
            raise LayerRefused("the layer's tar is cut short")

    def _block(self, block: bytes) -> None:
        if self._meta is not None:
            (kind, size), self._meta, self._want = self._meta, None, BLOCK
            self._take_meta(kind, block[:size])
        elif block == _ZEROS:
            self.ended = self._zero_seen
            self._zero_seen = True
        elif self._zero_seen:
            raise LayerRefused("the layer's tar goes on after a zero block")
        else:
            self._header(block)

    def _header(self, block: bytes) -> None:
        _check_sum(block)
        kind, size = block[156:157], _number(block[124:136])
        if size < 0 or size > self._largest:
            raise LayerRefused(f"a tar entry claims {size} bytes")
        if kind in _META:
            if size > _LONGEST_META:
                raise LayerRefused(f"a tar entry's extended header has {size} bytes")
            self._meta = (kind, size)
            self._want = -(-size // BLOCK) * BLOCK
            if not size:
                self._block(b"")
            return
        self._entry(block, kind, size)

    def _take_meta(self, kind: bytes, payload: bytes) -> None:
        if kind == b"x":
            self._records = _records(payload)
        else:
            self._long[kind] = _text(payload)

    def _entry(self, block: bytes, flag: bytes, size: int) -> None:
        records, self._records = self._records, {}
        long, self._long = self._long, {}
        set_ = {key: value for key, value in records.items() if value}
        name = long.get(b"L") or set_.get(b"path") or _name(block)
        kind = _kind(flag, name)
        size = _decimal(set_[b"size"]) if b"size" in set_ else size
        self._check(name, kind, size, records)
        self._receive(_made(block, name, long.get(b"K") or b"", kind, self.position, size, records, set_))
        self._pad = -size % BLOCK
        self._skip = size + self._pad

    def _check(self, name: bytes, kind: str, size: int, records: dict[bytes, bytes]) -> None:
        if size < 0 or size > self._largest:
            raise LayerRefused(f"{name[:200]!r} claims {size} bytes")
        if size and kind != "reg":
            raise LayerRefused(f"{name[:200]!r} is a {kind} that claims to have contents")
        if any(key.startswith(b"GNU.sparse.") for key in records):
            raise LayerRefused(f"{name[:200]!r} is a sparse file: a zTOC cannot say where its bytes are")


def _made(
    block: bytes, name: bytes, link: bytes, kind: str, offset: int, size: int,
    records: dict[bytes, bytes], set_: dict[bytes, bytes],
) -> Entry:  # fmt: skip
    known = block[257:263] == b"ustar\0" or block[257:265] == b"ustar  \0"
    for key in (b"atime", b"ctime"):
        if key in set_:
            _time(set_[key])
    return Entry(
        name=name,
        kind=kind,
        offset=offset,
        size=size,
        link=link or set_.get(b"linkpath") or _text(block[157:257]),
        mode=_number(block[100:108]),
        uid=_decimal(set_[b"uid"]) if b"uid" in set_ else _number(block[108:116]),
        gid=_decimal(set_[b"gid"]) if b"gid" in set_ else _number(block[116:124]),
        owner=set_.get(b"uname") or (_text(block[265:297]) if known else b""),
        group=set_.get(b"gname") or (_text(block[297:329]) if known else b""),
        modified=_rfc3339(*(_time(set_[b"mtime"]) if b"mtime" in set_ else (_number(block[136:148]), 0))),
        major=_number(block[329:337]) if known else 0,
        minor=_number(block[337:345]) if known else 0,
        records=tuple(sorted(records.items())),
    )


def _kind(flag: bytes, name: bytes) -> str:
    if flag == b"\0":
        return "dir" if name.endswith(b"/") else "reg"
    try:
        return _KINDS[flag]
    except KeyError:
        raise LayerRefused(f"{name[:200]!r} is a tar entry of type {flag!r}, which a zTOC cannot hold") from None


def _name(block: bytes) -> bytes:
    """The name with its prefix, by dialect: POSIX, star, GNU, old."""
    name, prefix = _text(block[:100]), b""
    if block[257:263] == b"ustar\0":
        prefix = _text(block[345:476] if block[508:512] == b"tar\0" else block[345:500])
    elif block[257:265] == b"ustar  \0" and not _gnu_times_are_sound(block):
        prefix = _text(block[345:500])  # Go before 1.8 wrote GNU headers with a prefix where GNU has times
        prefix = prefix if prefix.isascii() else b""
    return prefix + b"/" + name if prefix else name


def _gnu_times_are_sound(block: bytes) -> bool:
    try:
        for field in (block[345:357], block[357:369]):
            if field[0]:
                _number(field)
    except LayerRefused:
        return False
    return True


def _check_sum(block: bytes) -> None:
    claimed = _number(block[148:156])
    unsigned = sum(block) - sum(block[148:156]) + 8 * 32
    if claimed == unsigned:
        return
    high = sum(byte > 127 for byte in block) - sum(byte > 127 for byte in block[148:156])
    if claimed != unsigned - 256 * high:  # historic implementations summed signed bytes
        raise LayerRefused("the layer is not a tar, or a header of it is damaged")


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    """Octal digits, or a big-endian number behind a set bit (GNU)."""
    if field[0] & 0x80:
        signed = field if field[0] & 0x40 else bytes((field[0] & 0x7F,)) + field[1:]
        value = int.from_bytes(signed, "big", signed=True)
        if not -(1 << 63) <= value < 1 << 63:
            raise LayerRefused("a number in a tar header is too large")
        return value
    digits = field.strip(b" \0").partition(b"\0")[0]
    if not digits:
        return 0
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise LayerRefused(f"not a number in a tar header: {digits!r}")
    return int(digits, 8)


def _decimal(text: bytes) -> int:
    if not _NUMBER.match(text) or len(text) > 20:
        raise LayerRefused(f"not a number in a PAX header: {text[:40]!r}")
    return int(text)


def _time(text: bytes) -> tuple[int, int]:
    """Seconds and nanoseconds of a PAX time; both negative before 1970."""
    found = _TIME.match(text)
    if found is None or len(found[1]) > 20:
        raise LayerRefused(f"not a time in a PAX header: {text[:40]!r}")
    nanoseconds = int((found[2] or b"")[:9].ljust(9, b"0"))
    return int(found[1]), -nanoseconds if found[1].startswith(b"-") else nanoseconds


def _rfc3339(seconds: int, nanoseconds: int) -> bytes:
    if nanoseconds < 0:
        seconds, nanoseconds = seconds - 1, nanoseconds + 10**9
    try:
        day = (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None)
    except OverflowError:
        return b""
    fraction = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    return f"{day.isoformat()}{fraction}Z".encode()


def _records(payload: bytes) -> dict[bytes, bytes]:
    """PAX records, ``LENGTH KEY=VALUE\\n`` each; the last of a key counts."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(payload):
        digits, space, _ = payload[at : at + 21].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = payload[at + len(digits) + 1 : at + length]
        key, equals, value = record[:-1].partition(b"=")
        if length < 5 or at + length > len(payload) or record[-1:] != b"\n" or not equals or not key:
            raise LayerRefused("a PAX header of the layer is malformed")
        if b"\0" in (value if key in _TEXT_KEYS else key):
            raise LayerRefused("a PAX header of the layer has a zero byte where none may be")
        found[key] = value
        at += length
    return found
