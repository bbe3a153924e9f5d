"""Records: typed, bounded in memory, and never an error."""

import asyncio
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.tiers import recordfile
from registry_proxy.tiers import records as records_module
from registry_proxy.tiers.records import Records
from registry_proxy.tiers.schema import (
    Fact,
    ManifestRecord,
    Place,
    Sibling,
    Siblings,
    TagRecord,
    VerifiedBlob,
    digest_key,
    tag_key,
)
from registry_proxy.tiers.table import Table

HOST = SourceHost("registry.example")
REPOSITORY = Repository("library/python")
DIGEST = Digest.of(b"x")
FACT = Fact(5)


class Clock:
    """A wall clock that a test sets."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Shelf:
    """A backing in memory. ``reads``: how often it was asked."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self.reads = 0

    async def read(self, key: str) -> bytes | None:
        self.reads += 1
        return self.rows.get(key)

    async def write(self, items: list[tuple[str, bytes]]) -> bool:
        self.rows.update(items)
        return True

    async def remove(self, keys: list[str]) -> None:
        for key in keys:
            self.rows.pop(key, None)


@pytest.fixture
def where(tmp_path: Path) -> Path:
    """Where records may be kept."""
    return tmp_path / "records"


async def test_records_come_back_after_a_restart(where: Path) -> None:
    """What was put is there, typed, in the next run."""
    manifest = ManifestRecord(b"{}" * 50_000, "application/json", str(DIGEST))
    tag = TagRecord(str(DIGEST), "application/json", 7.5)
    siblings = Siblings((Sibling(str(DIGEST), 3),))
    verified = VerifiedBlob(40, 16, bytes(range(96)))
    async with Records.open(where) as records:
        await records.manifests.put(str(DIGEST), manifest)
        await records.tags.put(tag_key(HOST, REPOSITORY, "latest"), tag)
        await records.siblings.put(digest_key(HOST, REPOSITORY, DIGEST), siblings)
        await records.verified.put(str(DIGEST), verified)
    async with Records.open(where) as records:
        assert records.manifests.peek(str(DIGEST)) is None
        assert await records.manifests.get(str(DIGEST)) == manifest
        assert records.manifests.peek(str(DIGEST)) == manifest
        assert await records.tags.get("registry.example/library/python:latest") == tag
        assert await records.siblings.get(f"registry.example/library/python@{DIGEST}") == siblings
        assert await records.verified.get(str(DIGEST)) == verified
        assert await records.facts.get(str(DIGEST)) is None
        await records.tags.delete(tag_key(HOST, REPOSITORY, "latest"))
    async with Records.open(where) as records:
        assert await records.tags.get("registry.example/library/python:latest") is None


async def test_the_newest_sixteen_places_are_kept(where: Path) -> None:
    """Each once, the newest first."""
    async with Records.open(where) as records:
        for number in (*range(20), 10):
            await records.add_place(DIGEST, HOST, Repository(f"r{number}"))
        known = await records.places.get(str(DIGEST))
        assert known is not None
        assert known.places[:3] == (Place(HOST, "r10"), Place(HOST, "r19"), Place(HOST, "r18"))
        assert len(known.places) == len(set(known.places)) == 16


# --- tables ---------------------------------------------------------------------------------------------------------------


async def test_memory_is_asked_first() -> None:
    """What was put or got is not read from disk again."""
    shelf = Shelf()
    await Table("fact", Fact, shelf, Clock()).put("k", FACT)
    table = Table("fact", Fact, shelf, Clock())
    assert [await table.get("k") for _ in range(3)] == [FACT] * 3
    assert shelf.reads == 1


async def test_what_is_deleted_while_it_is_read_stays_deleted() -> None:
    """A slow disk that still gives what was there does not bring it back into memory; later reads find what is so."""
    shelf, go_on = Shelf(), asyncio.Event()
    await Table("fact", Fact, shelf, Clock()).put("k", FACT)
    table, read = Table("fact", Fact, shelf, Clock()), shelf.read

    async def slow(key: str) -> bytes | None:
        found = await read(key)
        await go_on.wait()
        return found

    shelf.read = slow  # type: ignore[method-assign]
    reading = asyncio.create_task(table.get("k"))
    await asyncio.sleep(0)
    await table.delete("k")
    go_on.set()
    assert await reading is None
    assert await table.get("k") is None
    await table.put("k", FACT)
    assert await Table("fact", Fact, shelf, Clock()).get("k") == FACT


async def test_memory_is_bounded() -> None:
    """Beyond the bound the least recently used leave memory, not the disk."""
    table = Table("fact", Fact, Shelf(), Clock(), memory=10 * 300)
    for number in range(100):
        await table.put(str(number), Fact(number))
        assert table.peek("0") is None or await table.get("0")
    kept = [number for number in range(100) if table.peek(str(number))]
    assert kept == [0, *range(100 - len(kept) + 1, 100)]
    assert len(kept) <= 11
    assert await table.get("50") == Fact(50)


@pytest.mark.parametrize(
    ("passed", "good"), [(0.0, True), (59.0, True), (61.0, False), (1e9, False), (-200.0, True), (-1e6, False)]
)
async def test_a_record_expires_by_our_clock(passed: float, good: bool) -> None:
    """In memory and from disk alike; one from the future, written before the clock was set back, is of unknown age."""
    clock, shelf = Clock(), Shelf()
    table = Table("fact", Fact, shelf, clock)
    await table.put("k", FACT, ttl=60)
    await table.put("forever", FACT)
    clock.now += passed
    for one in (table, Table("fact", Fact, shelf, clock)):
        assert (await one.get("k") is not None) is good
        assert (one.peek("k") is not None) is good
        assert await one.get("forever") == FACT


@given(st.binary(max_size=200))
async def test_a_record_that_cannot_be_read_is_a_miss(row: bytes) -> None:
    """Any bytes under the key give a record or nothing."""
    shelf = Shelf()
    shelf.rows["fact:k"] = row
    assert isinstance(await Table("fact", Fact, shelf, Clock()).get("k"), Fact | None)


async def test_a_record_of_another_shape_is_a_miss() -> None:
    """What another version wrote is not misread."""
    shelf = Shelf()
    await Table("fact", TagRecord, shelf, Clock()).put("k", TagRecord("d", "m", 1.0))
    assert await Table("fact", Fact, shelf, Clock()).get("k") is None
    assert msgspec.msgpack.decode(shelf.rows["fact:k"])


# --- trouble ------------------------------------------------------------------------------------------------------------


def garble(database: Path) -> None:
    """Overwritten from the start."""
    database.write_bytes(os.urandom(8192))


def cut(database: Path) -> None:
    """Cut in the middle of a page."""
    os.truncate(database, 5000)


def hollow(database: Path) -> None:
    """The header right, the rest zeroes."""
    data = database.read_bytes()
    database.write_bytes(data[:100] + bytes(len(data) - 100))


def other(database: Path) -> None:
    """A database of something else."""
    database.unlink()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE Settings (key TEXT NOT NULL UNIQUE, value)")
        connection.execute("INSERT INTO Settings VALUES ('disk_surprise', 1)")
        connection.commit()


@pytest.mark.parametrize("damage", [garble, cut, hollow, other])
async def test_a_damaged_database_is_set_aside(where: Path, damage: object) -> None:
    """The start finds it broken, keeps it for the curious, and begins with an empty one that works."""
    assert callable(damage)
    async with Records.open(where) as records:
        await records.facts.put_many((str(number), Fact(number)) for number in range(500))
    damage(where / "cache.db")
    async with Records.open(where) as records:
        for number in range(500):
            assert await records.facts.get(str(number)) in (None, Fact(number))
        await records.facts.put("new", FACT)
    async with Records.open(where) as records:
        assert await records.facts.get("new") == FACT
    assert len(list(where.parent.glob("records.broken-*"))) == 1


async def test_only_two_broken_databases_are_kept(where: Path) -> None:
    """A disk that breaks them again and again is not filled with them."""
    for _ in range(4):
        async with Records.open(where) as records:
            await records.facts.put("k", FACT)
        garble(where / "cache.db")
    async with Records.open(where):
        pass
    assert len(list(where.parent.glob("records.broken-*"))) == 2


async def test_damage_while_running_is_survived(where: Path) -> None:
    """A database that breaks under the program is replaced, and what is in memory stays."""
    async with Records.open(where) as records:
        await records.facts.put("kept", FACT)
        database = records._backing._file._cache
        assert database is not None

        def broken(*_: object, **__: object) -> None:
            raise sqlite3.DatabaseError("database disk image is malformed")

        database.get = broken
        assert await records.facts.get("unknown") is None
        assert records.facts.peek("kept") == FACT
        await records.facts.put("new", Fact(6))
    async with Records.open(where) as records:
        assert await records.facts.get("new") == Fact(6)
        assert await records.facts.get("kept") is None


async def test_damage_that_a_write_finds_is_survived(where: Path) -> None:
    """What was to be written stays in memory, and what comes after it lasts."""

    def broken(*_: object, **__: object) -> NoReturn:
        raise sqlite3.DatabaseError("database disk image is malformed")

    async with Records.open(where) as records:
        database = records._backing._file._cache
        assert database is not None
        database.transact = broken
        await records.facts.put("first", FACT)
        assert await records.facts.get("first") == FACT
        await records.facts.put("second", Fact(6))
    async with Records.open(where) as records:
        assert await records.facts.get("second") == Fact(6)


async def test_a_locked_database_is_given_up_on_in_time(where: Path) -> None:
    """Whoever holds the lock holds up neither start nor service: records live in memory then, and the database stays."""
    async with Records.open(where) as records:
        await records.facts.put("old", FACT)
    with closing(sqlite3.connect(where / "cache.db", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        async with Records.open(where, lock_wait=0.05) as records:
            await records.facts.put("new", FACT)
            assert await records.facts.get("new") == FACT
        holder.execute("ROLLBACK")
    async with Records.open(where) as records:
        assert await records.facts.get("old") == FACT
    assert not list(where.parent.glob("records.broken-*"))


async def test_a_disk_that_hangs_holds_up_one_request(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it moves again nobody else waits for it, and what is to be written does not pile up; then all is as before."""
    on = threading.Event()
    async with Records.open(where) as records:
        await records.sweep()  # the first one, which the start brings, is over
        database = records._backing
        read = database._file.get
        monkeypatch.setattr(database._file, "get", lambda key: (on.wait(30), read(key))[1])
        monkeypatch.setattr(records_module, "_PATIENCE", 0.05)
        assert await records.facts.get("unknown") is None
        monkeypatch.setattr(records_module, "_PATIENCE", 30)
        for number in range(100):
            assert await records.facts.get(f"unknown {number}") is None
            await records.facts.put(str(number), Fact(number))
        assert database._executor._work_queue.qsize() == 0
        assert records.facts.peek("99") == Fact(99)
        on.set()
        await database._late
        await records.facts.put("after", FACT)
    async with Records.open(where) as records:
        assert await records.facts.get("after") == FACT


async def test_a_lock_taken_while_running_loses_only_the_write(where: Path) -> None:
    """The record is in memory, and the next write reaches the disk."""
    async with Records.open(where, lock_wait=0.05) as records:
        await records.facts.put("a", FACT)
        with closing(sqlite3.connect(where / "cache.db", isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            await records.facts.put("b", FACT)
            holder.execute("ROLLBACK")
        assert records.facts.peek("b") == FACT
        await records.facts.put("c", FACT)
    async with Records.open(where) as records:
        assert [await records.facts.get(key) for key in "abc"] == [FACT, None, FACT]


async def test_no_directory_means_memory_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be written the proxy works all the same, and tries again later."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    async with Records.open(blocked / "records") as records:
        await records.facts.put("k", FACT)
        assert await records.facts.get("k") == FACT
        assert await records.facts.get("other") is None
        blocked.unlink()
        blocked.mkdir()
        await records.facts.put("early", FACT)
        monkeypatch.setattr(recordfile, "_RETRY", -1.0)
        records._backing._file._next_try = 0.0
        await records.facts.put("late", FACT)
    async with Records.open(blocked / "records") as records:
        assert await records.facts.get("late") == FACT


async def test_the_first_written_go_when_there_is_too_much(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep deletes until the limit holds, and spares the accounts."""
    async with Records.open(where) as records:
        await records.facts.put("first", FACT)
        body = os.urandom(20_000)
        for number in range(100):
            await records.manifests.put(str(number), ManifestRecord(body, "m", str(number)))
        monkeypatch.setattr(records_module, "LIMIT", 1 << 20)
        monkeypatch.setattr(records_module, "_SWEEP", 10)
        await records.sweep()
        volume = await records._backing._run(records._backing._file.volume)
        assert volume is not None
        assert 500_000 < volume <= 1 << 20
    async with Records.open(where) as records:
        assert await records.facts.get("first") is None
        assert await records.manifests.get("99") is not None
