"""One header of a tar, with the extended headers before it, as Go's archive/tar reads it: POSIX, star, GNU and the old form.

A layer has many thousand headers and most of their fields repeat, so what a field says is remembered.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zlib import adler32

import msgspec

from registry_proxy.lazy.failures import LayerRefused

BLOCK: Final = 512
ZEROS: Final = bytes(BLOCK)
LONGEST_META: Final = 1 << 20
"""Bytes of a PAX header or GNU long name: Go's limit."""

META: Final = (b"x", b"L", b"K")
"""Flags of headers that belong to the next one: PAX records, GNU long name, GNU long link."""

_KINDS: Final = {
    b"0": "reg",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "char",
    b"4": "block",
    b"5": "dir",
    b"6": "fifo",
}
_NUMBER: Final = re.compile(rb"[+-]?[0-9]+\Z")
_TIME: Final = re.compile(rb"([+-]?[0-9]+)(?:\.([0-9]*))?\Z")
_TEXT_KEYS: Final = (b"path", b"linkpath", b"uname", b"gname")
_SPARSE_PARTS: Final = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Records = Mapping[bytes, bytes]


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


def stated_size(block: bytes) -> int:
    """The bytes that a header of 512 bytes says follow it; raises LayerRefused if it is none (its sum is wrong)."""
    _check_sum(block)
    return _octal(block[124:136])


def entry(block: bytes, offset: int, size: int, records: Records, long: Records) -> Entry:
    """The entry of a header; ``size``: as the header states it, a PAX record overrules it; ``long``: GNU's, by flag.

    Raises LayerRefused for what Go's reader refuses, and for types that no layer has.
    """
    known = block[257:263] == b"ustar\0" or block[257:265] == b"ustar  \0"
    if records or long:
        return _extended(block, offset, size, records, long, known)
    name = _name(block)
    return Entry(
        name,
        kind(block[156:157], name),
        offset,
        size,
        text(block[157:257]),
        number(block[100:108]),
        number(block[108:116]),
        number(block[116:124]),
        text(block[265:297]) if known else b"",
        text(block[297:329]) if known else b"",
        _modified(block[136:148]),
        number(block[329:337]) if known else 0,
        number(block[337:345]) if known else 0,
        (),
    )


def _extended(block: bytes, offset: int, size: int, records: Records, long: Records, known: bool) -> Entry:
    set_ = {key: value for key, value in records.items() if value}
    name = long.get(b"L") or set_.get(b"path") or _name(block)
    for key in (b"atime", b"ctime"):
        if key in set_:
            _time(set_[key])
    return Entry(
        name=name,
        kind=kind(block[156:157], name),
        offset=offset,
        size=decimal(set_[b"size"]) if b"size" in set_ else size,
        link=long.get(b"K") or set_.get(b"linkpath") or text(block[157:257]),
        mode=number(block[100:108]),
        uid=decimal(set_[b"uid"]) if b"uid" in set_ else number(block[108:116]),
        gid=decimal(set_[b"gid"]) if b"gid" in set_ else number(block[116:124]),
        owner=set_.get(b"uname") or (text(block[265:297]) if known else b""),
        group=set_.get(b"gname") or (text(block[297:329]) if known else b""),
        modified=_rfc3339(*_time(set_[b"mtime"])) if b"mtime" in set_ else _modified(block[136:148]),
        major=number(block[329:337]) if known else 0,
        minor=number(block[337:345]) if known else 0,
        records=tuple(sorted(records.items())),
    )


def kind(flag: bytes, name: bytes) -> str:
    """What an entry with this flag is; raises LayerRefused for a type that a layer cannot have."""
    if flag == b"\0":
        return "dir" if name.endswith(b"/") else "reg"
    try:
        return _KINDS[flag]
    except KeyError:
        raise LayerRefused(f"{name[:200]!r} is a tar entry of type {flag!r}, for which an index has no word") from None


def _name(block: bytes) -> bytes:
    """The name with its prefix, by dialect."""
    name, prefix = text(block[:100]), b""
    if not block[345]:  # no dialect has a prefix that begins with a zero byte
        return name
    if block[257:263] == b"ustar\0":
        prefix = text(block[345:476] if block[508:512] == b"tar\0" else block[345:500])
    elif block[257:265] == b"ustar  \0" and not _gnu_times_are_sound(block):
        prefix = text(block[345:500])  # Go before 1.8 wrote GNU headers with a prefix where GNU has times
        prefix = prefix if prefix.isascii() else b""
    return prefix + b"/" + name if prefix else name


def _gnu_times_are_sound(block: bytes) -> bool:
    try:
        for field in (block[345:357], block[357:369]):
            if field[0]:
                number(field)
    except LayerRefused:
        return False
    return True


def _check_sum(block: bytes) -> None:
    claimed, field = _octal(block[148:156]), block[148:156]
    # half a block's bytes sum to less than Adler-32's modulus, so that its low half is their sum and one
    unsigned = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2 - sum(field) + 8 * 32
    if claimed == unsigned:
        return
    high = sum(byte > 127 for byte in block) - sum(byte > 127 for byte in field)
    if claimed != unsigned - 256 * high:  # historic implementations summed signed bytes
        raise LayerRefused("the layer is not a tar, or a header of it is damaged")


def text(field: bytes) -> bytes:
    """A text field, up to its first zero byte."""
    return field.partition(b"\0")[0]


def _octal(field: bytes) -> int:
    """Octal digits, or a big-endian number behind a set bit (GNU)."""
    digits = field.rstrip(b" \0")
    if not digits.isdigit():
        if field[0] & 0x80:
            return _binary(field)
        digits = digits.strip(b" \0").partition(b"\0")[0]
        if not digits:
            return 0
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise LayerRefused(f"not a number in a tar header: {digits!r}")
    return int(digits, 8)


number = lru_cache(4096)(_octal)
"""What a numeric field says; raises LayerRefused."""


def _binary(field: bytes) -> int:
    signed = field if field[0] & 0x40 else bytes((field[0] & 0x7F,)) + field[1:]
    value = int.from_bytes(signed, "big", signed=True)
    if not -(1 << 63) <= value < 1 << 63:
        raise LayerRefused("a number in a tar header is too large")
    return value


def decimal(digits: bytes) -> int:
    """A number of a PAX record; raises LayerRefused."""
    if not _NUMBER.match(digits) or len(digits) > 20:
        raise LayerRefused(f"not a number in a PAX header: {digits[:40]!r}")
    return int(digits)


def _time(digits: bytes) -> tuple[int, int]:
    """Seconds and nanoseconds of a PAX time; both negative before 1970."""
    found = _TIME.match(digits)
    if found is None or len(found[1]) > 20:
        raise LayerRefused(f"not a time in a PAX header: {digits[:40]!r}")
    nanoseconds = int((found[2] or b"")[:9].ljust(9, b"0"))
    return int(found[1]), -nanoseconds if found[1].startswith(b"-") else nanoseconds


@lru_cache(4096)
def _modified(field: bytes) -> bytes:
    return _rfc3339(_octal(field), 0)


def _rfc3339(seconds: int, nanoseconds: int) -> bytes:
    if nanoseconds < 0:
        seconds, nanoseconds = seconds - 1, nanoseconds + 10**9
    try:
        day = (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None)
    except OverflowError:
        return b""
    fraction = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    return f"{day.isoformat()}{fraction}Z".encode()


def pax_records(payload: bytes) -> dict[bytes, bytes]:
    """PAX records, ``LENGTH KEY=VALUE\\n`` each; the last of a key counts, but the repeated ones of an old sparse map (GNU 0.0) become
    the one of its successor. Raises LayerRefused."""
    found: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
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
        if key in _SPARSE_PARTS:
            if key != _SPARSE_PARTS[len(sparse) % 2]:
                raise LayerRefused("a PAX header of the layer has a sparse map out of order")
            sparse.append(value)
        else:
            found[key] = value
        at += length
    if sparse:
        found[b"GNU.sparse.map"] = b",".join(sparse)
    return found
