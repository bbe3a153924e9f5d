"""Catalogs of a CVMFS repository: SQLite files from a server. The first byte says whether the rest is such a file, or rows for a sound one."""

import contextlib
import sqlite3
import struct
import tempfile
from functools import cache
from pathlib import Path

from registry_proxy.errors import UpstreamBroken
from registry_proxy.sources.cvmfs.catalog import Entry, key_of, look_up, pieces

PATH = "/blobs/sha256/ab/abc"
SCHEMA = """
CREATE TABLE catalog (md5path_1 INTEGER, md5path_2 INTEGER, hash BLOB, size INTEGER, flags INTEGER);
CREATE TABLE chunks (md5path_1 INTEGER, md5path_2 INTEGER, offset INTEGER, size INTEGER, hash BLOB);
CREATE TABLE nested_catalogs (path TEXT, sha1 TEXT, size INTEGER);
"""


def run(data: bytes) -> None:
    """A look-up gives an entry that makes sense, a nested catalog, nothing, or says why not."""
    file = _directory() / "catalog"
    if data[:1] < b"\x80":
        file.write_bytes(data[1:])
    else:
        _write(file, data[1:])
    with contextlib.suppress(UpstreamBroken):
        found = look_up(file, PATH)
        if isinstance(found, Entry):
            assert found.size >= 0
            _pieces(file, found)


def _pieces(file: Path, entry: Entry) -> None:
    for start in (0, entry.size // 2):
        for piece in pieces(file, entry, start, 4):
            assert 0 <= piece.span.start < piece.span.stop <= entry.size


def _write(file: Path, rows: bytes) -> None:
    """A sound file with one row in each table: size, flags, then the bytes of a hash; the chunk's and the nested catalog's alike."""
    size, flags, offset, length = struct.unpack("<qIqq", rows[:28].ljust(28, b"\0"))
    digest = rows[28:60].rstrip(b"\0")
    file.write_bytes(_empty())
    connection = sqlite3.connect(file, isolation_level=None)
    with contextlib.closing(connection):
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("INSERT INTO catalog VALUES (?, ?, ?, ?, ?)", (*key_of(PATH), digest or None, size, flags))
        connection.execute("INSERT INTO chunks VALUES (?, ?, ?, ?, ?)", (*key_of(PATH), offset, length, digest))
        connection.execute("INSERT INTO nested_catalogs VALUES ('/blobs', CAST(? AS TEXT), ?)", (rows[28:], size))


@cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "empty"
        connection = sqlite3.connect(file)
        with contextlib.closing(connection):
            connection.executescript(f"PRAGMA page_size = 512; {SCHEMA}")
        return file.read_bytes()


@cache
def _holder() -> tempfile.TemporaryDirectory[str]:
    shared = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix="fuzz-", dir=shared if shared.is_dir() else None)


def _directory() -> Path:
    return Path(_holder().name)
