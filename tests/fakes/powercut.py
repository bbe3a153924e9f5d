"""What a power cut leaves of a store: files as of the last fsync, everything else in any state that a disk may leave it in.

The program syncs its two small files, ``format`` and ``state``, and SQLite syncs the records' log before a checkpoint copies it. A
journalling file system keeps those. Of what was written since and not synced, the model takes each file by itself:

- a chunk's file stays, or vanishes (its rename was not on disk), or has its length and zeroes in place of its last pages (delayed
  allocation), or is cut short;
- the records' log is cut anywhere behind the frames that a checkpoint has taken, perhaps in the middle of a frame; its index, which
  lives in shared memory, is gone;
- of the records' files, each stays, vanishes or is cut like a chunk's.

Call it when nobody has the store open, after a SIGKILL.
"""

import os
import random
import struct
import time
from pathlib import Path
from typing import Final

_SYNCED_BY_ITSELF: Final = 30.0
"""Seconds after which Linux writes a file back unasked (vm.dirty_expire_centisecs)."""

_PAGE: Final = 4096
_LOG_HEADER, _FRAME_HEADER = 32, 24
_ATTEMPTED: Final = 128
"""Where SQLite's ``-shm`` says how many frames a checkpoint has tried to copy (wal.c, WalCkptInfo)."""


def cut(store: Path, dice: random.Random) -> int:
    """Take the power from a store whose instance was killed just now; the number of files that suffered."""
    now = time.time()
    suffered = 0
    for directory in ("chunks", "tmp", "records"):
        for path in sorted((store / directory).rglob("*")):
            if (
                path.is_file()
                and not path.name.startswith("cache.db")
                and now - path.stat().st_mtime < _SYNCED_BY_ITSELF
            ):
                suffered += _lose(path, dice)
    _cut_log(store / "records" / "cache.db", dice)
    return suffered


def _lose(path: Path, dice: random.Random) -> bool:
    size = path.stat().st_size
    match dice.choice(("kept", "kept", "vanished", "zeroed", "short")):
        case "vanished":
            path.unlink()
        case "zeroed":
            start = dice.randrange(size // _PAGE + 1) * _PAGE
            os.truncate(path, start)
            os.truncate(path, size)
        case "short":
            os.truncate(path, dice.randrange(size + 1))
        case _:
            return False
    return True


def _cut_log(database: Path, dice: random.Random) -> None:
    log, index = database.with_name("cache.db-wal"), database.with_name("cache.db-shm")
    if not log.exists() or not index.exists():
        return
    shared = index.read_bytes()
    page = struct.unpack_from(">I", log.read_bytes()[:12].ljust(12, b"\0"), 8)[0]
    taken = struct.unpack_from("=I", shared, _ATTEMPTED)[0] if len(shared) >= _ATTEMPTED + 4 else 0
    synced = _LOG_HEADER + taken * (_FRAME_HEADER + page)
    size = log.stat().st_size
    if synced <= size:
        os.truncate(log, dice.randint(synced if taken else 0, size))
    index.unlink()
