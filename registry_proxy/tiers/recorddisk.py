"""diskcache, tamed: how a record's bytes lie on disk, and nothing that is read back is trusted.

diskcache (5.6.3) unpickles what it finds (CVE-2025-69872) and opens and removes files by names it finds. Here only bytes go in
and come out, under text keys; pickles are refused, and so is a file name that diskcache would not have made.
"""

import re
import sqlite3
from pathlib import Path
from typing import Final

import diskcache
import lz4.frame
from diskcache.core import MODE_BINARY, MODE_RAW, UNKNOWN

_PLAIN: Final = b"="
_LZ4: Final = b"4"
_TRY_FROM: Final = 256
_LARGEST: Final = 64 << 20
_FILE_NAME: Final = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val\Z")

SETTINGS: Final = {
    "eviction_policy": "none",
    "cull_limit": 0,
    "statistics": 0,
    "tag_index": 0,
    "sqlite_mmap_size": 0,  # a mapped database that is cut short kills the process with SIGBUS
}


class RecordUnreadable(OSError):
    """A row that this program did not write. An OSError, which is what diskcache takes for a miss."""


class RecordDisk(diskcache.Disk):  # type: ignore[misc]
    """Stores bytes under text keys, as an lz4 frame where that saves an eighth."""

    def put(self, key: object) -> tuple[str, bool]:
        """The database key of a record; raises TypeError unless it is text."""
        if not isinstance(key, str):
            raise TypeError(f"records have text keys, not {type(key).__name__}")
        return key, True

    def get(self, key: object, raw: object) -> str:
        """The key of a record found; raises RecordUnreadable if it is not one of ours."""
        if not raw or not isinstance(key, str):
            raise RecordUnreadable("a key that is not text")
        return key

    def store(self, value: bytes, read: bool, key: object = UNKNOWN) -> tuple[int, int, str | None, object]:
        """The row for a record's bytes: (size, mode, file name, value in the row)."""
        if read or not isinstance(value, bytes):
            raise TypeError("records are bytes")
        row: tuple[int, int, str | None, object] = super().store(pack(value), read=False, key=key)
        return row

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> bytes:
        """The bytes of a row; raises RecordUnreadable if this program did not write it."""
        if read or mode not in (MODE_RAW, MODE_BINARY):
            raise RecordUnreadable(f"a record of mode {mode}")
        if mode == MODE_RAW:
            packed = value
        else:
            self._check(filename)
            packed = super().fetch(mode, filename, value, read=False)
        if not isinstance(packed, bytes | sqlite3.Binary):
            raise RecordUnreadable("a record that is not bytes")
        return unpack(bytes(packed))

    def remove(self, file_path: str) -> None:
        """Remove a record's file; a name that is not one of ours is left alone."""
        if _FILE_NAME.match(file_path):
            super().remove(file_path)

    def _check(self, filename: str | None) -> None:
        if filename is None or not _FILE_NAME.match(filename) or (Path(self._directory) / filename).is_symlink():
            raise RecordUnreadable("a record whose file is not one of ours")


def pack(value: bytes) -> bytes:
    """What lies on disk for a record's bytes."""
    if len(value) >= _TRY_FROM:
        frame: bytes = lz4.frame.compress(value, store_size=True)
        if len(frame) * 8 <= len(value) * 7:
            return _LZ4 + frame
    return _PLAIN + value


def unpack(packed: bytes) -> bytes:
    """A record's bytes from what lies on disk; raises RecordUnreadable."""
    kind, body = packed[:1], packed[1:]
    if kind == _PLAIN:
        return body
    if kind != _LZ4:
        raise RecordUnreadable("a record of unknown form")
    try:
        if lz4.frame.get_frame_info(body)["content_size"] > _LARGEST:
            raise RecordUnreadable("a record that is too large")
        plain: bytes = lz4.frame.decompress(body)
    except (RuntimeError, ValueError, MemoryError) as error:
        raise RecordUnreadable(f"a record that is not lz4: {error}") from error
    return plain
