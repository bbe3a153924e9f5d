"""The database file of the records, as blocking calls for one thread. It never raises for what the disk does: a record that
cannot be read is a miss, one that cannot be written is kept by whoever has it in memory.

A database that is damaged is moved aside, kept for the curious (two of them at most), and replaced by an empty one.
"""

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import diskcache
import structlog

from registry_proxy.tiers.recorddisk import SETTINGS, RecordDisk

_log = structlog.get_logger()

LOCK_WAIT: Final = 5.0
"""Seconds that a statement waits for a lock another process holds."""

_BROKEN_KEPT: Final = 2
_RETRY: Final = 60.0
_IMPATIENT: Final = 0.02
"""Seconds that a statement waits for the lock after one has waited in vain, until a write works again: somebody waits for each."""

_DISK: Final = (OSError, sqlite3.OperationalError, diskcache.Timeout)


class RecordFile:
    """Records as bytes under text keys. ``usable`` is False while there is no database to work with."""

    def __init__(self, directory: Path, lock_wait: float = LOCK_WAIT) -> None:
        self._directory = directory
        self._lock_wait = lock_wait
        self._cache: diskcache.Cache | None = None
        self._next_try = 0.0
        self._closed = False
        self._complained = False
        self._impatient = False

    @property
    def usable(self) -> bool:
        """True if there is a database."""
        return self._cache is not None

    def open(self) -> None:
        """Open the database; a damaged one is moved aside first."""
        self._next_try = time.monotonic() + _RETRY
        try:
            self._cache = self._open()
        except _DISK as error:
            self._complain("records.memory_only", error)
        except (sqlite3.DatabaseError, TypeError, ValueError, KeyError, AttributeError) as error:
            self._start_anew(error)

    def _open(self) -> diskcache.Cache:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        _probe(self._directory / diskcache.core.DBNAME, self._lock_wait)
        return diskcache.Cache(str(self._directory), timeout=self._lock_wait, disk=RecordDisk, **SETTINGS)

    def _start_anew(self, reason: Exception) -> None:
        self._let_go()
        try:
            aside = set_aside(self._directory)
            _log.error("records.broken", reason=str(reason), kept_as=str(aside))
            self._cache = self._open()
        except (OSError, sqlite3.Error, diskcache.Timeout) as error:
            self._complain("records.memory_only", error)

    def get(self, key: str) -> bytes | None:
        """The bytes under a key; None if there are none or they cannot be read."""
        try:
            value = self._cache.get(key) if self._cache is not None else None
        except _DISK as error:
            self._complain("records.unreadable", error)
            return None
        except sqlite3.DatabaseError as error:
            self._start_anew(error)
            return None
        return value if isinstance(value, bytes) else None

    def put(self, items: Iterable[tuple[str, bytes]]) -> bool:
        """Write some records in one transaction. True if they are on disk."""
        self._notice_removal()
        if self._cache is None and not self._closed and time.monotonic() >= self._next_try:
            self.open()
        cache = self._cache
        if cache is None:
            return False
        try:
            with cache.transact():
                for key, value in items:
                    cache.set(key, value)
            self._complained = False
            self._be_patient(cache, patient=True)
            return True
        except _DISK as error:
            self._complain("records.unwritable", error)
            self._be_patient(cache, patient=False)
        except sqlite3.DatabaseError as error:
            self._start_anew(error)
        return False

    def _be_patient(self, cache: diskcache.Cache, *, patient: bool) -> None:
        if patient is self._impatient:
            wait = self._lock_wait if patient else _IMPATIENT
            with contextlib.suppress(sqlite3.Error):
                cache._con.execute(f"PRAGMA busy_timeout = {wait * 1000:.0f}")  # noqa: SLF001  # it offers no other way
                self._impatient = not patient

    def _notice_removal(self) -> None:
        """What is written to a database whose file was removed is lost when the program ends: open another one."""
        if self._cache is not None and not (self._directory / diskcache.core.DBNAME).exists():
            self._let_go()
            self._next_try = 0.0

    def delete(self, keys: Iterable[str]) -> None:
        """Delete some records in one transaction."""
        cache = self._cache
        if cache is None:
            return
        try:
            with cache.transact():
                for key in keys:
                    cache.delete(key)
        except _DISK as error:
            self._complain("records.unwritable", error)
        except sqlite3.DatabaseError as error:
            self._start_anew(error)

    def oldest(self, count: int, spare: str) -> list[str]:
        """The keys of the first ``count`` records written, leaving out those that begin with ``spare``."""
        found: list[str] = []
        try:
            for key in self._cache if self._cache is not None else ():
                if len(found) == count:
                    break
                if not key.startswith(spare):
                    found.append(key)
        except (OSError, sqlite3.Error):
            return found
        return found

    def volume(self) -> int:
        """Bytes on disk."""
        try:
            return int(self._cache.volume()) if self._cache is not None else 0
        except (OSError, sqlite3.Error):
            return 0

    def close(self) -> None:
        """Close the database for good."""
        self._closed = True
        self._let_go()

    def _let_go(self) -> None:
        if self._cache is not None:
            with contextlib.suppress(sqlite3.Error):
                self._cache.close()
            self._cache = None
            self._impatient = False

    def _complain(self, event: str, error: Exception) -> None:
        """Say so once, until a write works again."""
        if not self._complained:
            _log.warning(event, reason=str(error) or type(error).__name__, directory=str(self._directory))
            self._complained = True


def _probe(database: Path, lock_wait: float) -> None:
    """Find out within ``lock_wait`` whether the database is locked (diskcache would try for a minute) or is none."""
    with contextlib.closing(sqlite3.connect(database, timeout=lock_wait, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def set_aside(directory: Path) -> Path:
    """Move a broken database's directory away, keeping the newest two of these; raises OSError."""
    aside = directory.with_name(f"{directory.name}.broken-{time.time_ns()}")
    directory.rename(aside)
    kept = sorted(directory.parent.glob(f"{directory.name}.broken-*"))
    for old in kept[:-_BROKEN_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return aside
