"""Look-ups in one catalog, an SQLite file (schema 2.5, cvmfs ``catalog_sql.h``). Nothing here may run on the event loop.

The file is opened for each look-up, read-only and immutable, with a small page cache: memory does not grow with the catalog.
"""

import hashlib
import sqlite3
import struct
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from registry_proxy.errors import UpstreamBroken
from registry_proxy.plan.chunks import Span
from registry_proxy.sources.cvmfs.hashes import Algorithm, ContentHash

_DIRECTORY, _MOUNT_POINT, _FILE, _SYMLINK, _SPECIAL, _CHUNKED, _EXTERNAL = 1, 2, 4, 8, 16, 64, 128
_PAGE_CACHE_KIB = 512
_STEPS, _TURNS = 100_000, 100
"""Steps of SQLite's machine: a look-up takes some hundred, a view that somebody made a table of may have no end."""
_UNREADABLE = (sqlite3.Error, UnicodeDecodeError, MemoryError)
"""What a broken file is answered with: also an error of SQLite whose text names something that is no text, and its refusal to allocate
what a nonsensical length in the file would need."""


@dataclass(frozen=True, slots=True)
class CatalogRef:
    """A catalog by its hash. ``size``: bytes as SQLite, None if nobody said; ``alternative``: it lies outside ``data/``."""

    hash: ContentHash
    size: int | None = None
    alternative: bool = False

    @property
    def path(self) -> str:
        """Where it lies below the repository's URL."""
        return f".cvmfsalt-{self.hash}C" if self.alternative else self.hash.path("C")


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file. ``hash``: None where only its chunks have one; ``compressed``: its objects are zlib streams."""

    path: str
    size: int
    hash: ContentHash | None
    algorithm: Algorithm
    compressed: bool
    chunked: bool
    external: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk of a file: the bytes ``span`` of it."""

    span: Span
    hash: ContentHash


def key_of(path: str) -> tuple[int, int]:
    """The key of a path: its MD5 as two little-endian signed numbers. ``path``: absolute, the root is the empty text."""
    first, second = struct.unpack("<qq", hashlib.md5(path.encode(), usedforsecurity=False).digest())
    return first, second


def look_up(file: Path, path: str) -> Entry | CatalogRef | None:
    """The regular file at ``path``, or the nested catalog that would have it, or None.

    Raises UpstreamBroken for a catalog that makes no sense, FileNotFoundError if the file is gone.
    """
    with closing(_open(file)) as connection:
        row = _one(
            connection, "SELECT size, flags, hash FROM catalog WHERE md5path_1 = ? AND md5path_2 = ?", key_of(path)
        )
        if row is None or _flags(row) & _MOUNT_POINT:
            return _nested(connection, path)
        return _entry(path, row)


def pieces(file: Path, entry: Entry, start: int, most: int) -> list[Piece]:
    """At most ``most`` chunks of a file, from the one that has byte ``start``; they adjoin each other. Raises as ``look_up``."""
    with closing(_open(file)) as connection:
        rows = _all(
            connection,
            "SELECT offset, size, hash FROM chunks WHERE md5path_1 = ? AND md5path_2 = ? AND offset + size > ?"
            " ORDER BY offset LIMIT ?",
            (*key_of(entry.path), start, most),
        )
    found = [_piece(entry, row) for row in rows]
    if not found or found[0].span.start > start:
        raise UpstreamBroken(f"the catalog has no chunk for byte {start} of {entry.path}")
    for one, other in pairwise(found):
        if one.span.stop != other.span.start:
            raise UpstreamBroken(f"the catalog has chunks of {entry.path} that do not adjoin")
    return found


def _open(file: Path) -> sqlite3.Connection:
    if not file.exists():
        raise FileNotFoundError(file)
    uri = f"file:{quote(str(file))}?mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    except _UNREADABLE as error:
        raise UpstreamBroken(f"the catalog cannot be read: {error}") from error
    turns = iter(range(_TURNS))
    connection.set_progress_handler(lambda: next(turns, None) is None, _STEPS)
    try:
        connection.execute(f"PRAGMA cache_size = -{_PAGE_CACHE_KIB}")
        connection.execute("PRAGMA trusted_schema = OFF")
    except _UNREADABLE as error:
        connection.close()
        raise UpstreamBroken(f"the catalog cannot be read: {error}") from error
    return connection


def _all(connection: sqlite3.Connection, query: str, values: Sequence[int | str]) -> list[tuple[object, ...]]:
    try:
        return connection.execute(query, values).fetchall()
    except _UNREADABLE as error:
        raise UpstreamBroken(f"the catalog cannot be read: {error}") from error


def _one(connection: sqlite3.Connection, query: str, values: Sequence[int | str]) -> tuple[object, ...] | None:
    return next(iter(_all(connection, query, values)), None)


def _nested(connection: sqlite3.Connection, path: str) -> CatalogRef | None:
    """The nested catalog with the longest prefix of the path."""
    prefixes = [str(each) for each in PurePosixPath(path).parents][:-1]
    row = _one(
        connection,
        f"SELECT sha1, size FROM nested_catalogs WHERE path IN ({', '.join('?' * len(prefixes))})"  # noqa: S608 (question marks)
        " ORDER BY length(path) DESC LIMIT 1",
        prefixes,
    )
    if row is None:
        return None
    text, size = row
    try:
        return CatalogRef(ContentHash.parse(str(text)), size if isinstance(size, int) and size > 0 else None)
    except ValueError as error:
        raise UpstreamBroken(f"the catalog names a nested one wrongly: {error}") from error


def _flags(row: tuple[object, ...]) -> int:
    flags = row[1]
    if not isinstance(flags, int):
        raise UpstreamBroken("the catalog has a row without flags")
    return flags


def _entry(path: str, row: tuple[object, ...]) -> Entry | None:
    """What a row says of a regular file; None for anything else."""
    size, digest, flags = row[0], row[2], _flags(row)
    if not flags & _FILE or flags & (_DIRECTORY | _SYMLINK | _SPECIAL):
        return None
    compression = flags >> 11 & 7
    if not isinstance(size, int) or size < 0 or compression > 1:
        raise UpstreamBroken(f"the catalog has a row for {path} that makes no sense")
    algorithm = _algorithm(flags)
    return Entry(
        path,
        size,
        hash=None if digest is None else _hash(algorithm, digest),
        algorithm=algorithm,
        compressed=compression == 0,
        chunked=bool(flags & _CHUNKED),
        external=bool(flags & _EXTERNAL),
    )


def _piece(entry: Entry, row: tuple[object, ...]) -> Piece:
    offset, size, digest = row
    if not isinstance(offset, int) or not isinstance(size, int) or offset < 0 or size <= 0:
        raise UpstreamBroken(f"the catalog has a chunk of {entry.path} that makes no sense")
    if offset + size > entry.size:
        raise UpstreamBroken(f"the catalog has a chunk beyond the end of {entry.path}")
    return Piece(Span(offset, offset + size), _hash(entry.algorithm, digest))


def _algorithm(flags: int) -> Algorithm:
    try:
        return Algorithm(flags >> 8 & 7)
    except ValueError:
        raise UpstreamBroken("the catalog names a hash algorithm that nobody knows") from None


def _hash(algorithm: Algorithm, digest: object) -> ContentHash:
    try:
        if isinstance(digest, bytes):
            return ContentHash(algorithm, digest)
    except ValueError:
        pass
    raise UpstreamBroken("the catalog has a hash of a wrong length")
