"""diskcache, tamed: nothing that is read back is trusted."""

import pickle
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import diskcache
import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.tiers.recorddisk import SETTINGS, RecordDisk, RecordUnreadable, pack, unpack
from registry_proxy.tiers.recordfile import RecordFile


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


def opened(directory: Path) -> RecordFile:
    """An open record file; the test closes it."""
    file = RecordFile(directory)
    file.open()
    assert file.usable
    return file


def plant(directory: Path, key: str, mode: int, filename: str | None, value: object) -> None:
    """Put a row into the database behind the program's back."""
    with closing(sqlite3.connect(directory / "cache.db")) as database, database:
        database.execute(
            "INSERT INTO Cache (key, raw, store_time, mode, filename, value) VALUES (?, 1, 0, ?, ?, ?)",
            (key, mode, filename, value),
        )


@given(st.one_of(st.binary(max_size=2000), st.binary(max_size=20).map(lambda piece: piece * 300)))
def test_what_is_packed_is_unpacked(value: bytes) -> None:
    """Bytes come back as they were; those that repeat themselves take less room."""
    packed = pack(value)
    assert unpack(packed) == value
    assert len(packed) <= len(value) + 1


@given(st.binary(max_size=300))
def test_what_was_not_packed_here_is_refused_or_bytes(packed: bytes) -> None:
    """Any bytes on disk give bytes or RecordUnreadable, nothing else."""
    for planted in (packed, b"4" + packed, b"4" + lz4.frame.compress(b"x" * 500)[: len(packed)]):
        with suppress(RecordUnreadable):
            assert isinstance(unpack(planted), bytes)


def test_a_frame_that_claims_to_be_huge_is_not_unpacked() -> None:
    """A planted record cannot make the proxy allocate what it likes."""
    frame = bytearray(lz4.frame.compress(b"x" * 1000, store_size=True))
    size_at = 6
    frame[size_at : size_at + 8] = (1 << 40).to_bytes(8, "little")
    with pytest.raises(RecordUnreadable):
        unpack(b"4" + bytes(frame))


def test_large_records_lie_in_files_and_come_back(tmp_path: Path) -> None:
    """Manifests of some MiB do not swell the database."""
    body = bytes(range(256)) * 4000 + pickle.dumps(tmp_path)
    noise = b"".join(str(n * n).encode() for n in range(60_000))
    file = opened(tmp_path / "records")
    file.put([("a", body), ("b", noise)])
    assert file.get("a") == body
    assert file.get("b") == noise
    assert list((tmp_path / "records").rglob("*.val"))
    file.delete(["a", "b"])
    assert not list((tmp_path / "records").rglob("*.val"))
    file.close()


@pytest.mark.parametrize("mode", [4, 3, 7, None])
def test_a_planted_pickle_is_a_miss(tmp_path: Path, mode: int) -> None:
    """A row that says it is a pickle, or anything but bytes, is not looked into."""
    file = opened(tmp_path / "records")
    trace = tmp_path / "executed"
    plant(tmp_path / "records", "k", mode, None, pickle.dumps(Bomb(trace)))
    assert file.get("k") is None
    assert not trace.exists()
    file.put([("k", b"ours")])
    assert file.get("k") == b"ours"
    file.close()


def test_a_planted_pickle_in_a_file_is_a_miss(tmp_path: Path) -> None:
    """Nor is one in a file of its own, under a name of the right form."""
    file = opened(tmp_path / "records")
    trace = tmp_path / "executed"
    name = f"aa/bb/{'c' * 28}.val"
    (tmp_path / "records" / "aa" / "bb").mkdir(parents=True)
    (tmp_path / "records" / name).write_bytes(pickle.dumps(Bomb(trace)))
    plant(tmp_path / "records", "k", 4, name, None)
    plant(tmp_path / "records", "l", 2, name, None)
    assert file.get("k") is None
    assert file.get("l") is None
    assert not trace.exists()
    file.close()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "aa/../../secret", "aa/bb/x.val", "", None])
def test_a_planted_file_name_is_neither_read_nor_removed(tmp_path: Path, name: str | None) -> None:
    """Only names that diskcache itself would make are followed."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"=key material")
    file = opened(tmp_path / "records")
    plant(tmp_path / "records", "k", 2, name, None)
    assert file.get("k") is None
    file.put([("k", b"ours")])
    file.delete(["k"])
    assert secret.read_bytes() == b"=key material"
    file.close()


def test_a_planted_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    """A link under a name of the right form leads nowhere."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"=key material")
    file = opened(tmp_path / "records")
    name = f"aa/bb/{'c' * 28}.val"
    (tmp_path / "records" / "aa" / "bb").mkdir(parents=True)
    (tmp_path / "records" / name).symlink_to(secret)
    plant(tmp_path / "records", "k", 2, name, None)
    assert file.get("k") is None
    file.close()


def test_only_text_and_bytes_go_in(tmp_path: Path) -> None:
    """A mistake in this program cannot write a pickle either."""
    cache = diskcache.Cache(str(tmp_path / "records"), disk=RecordDisk, **SETTINGS)
    with pytest.raises(TypeError):
        cache.set(("a", 1), b"x")
    with pytest.raises(TypeError):
        cache.set("a", {"x": 1})
    cache.close()


def test_nothing_is_culled_by_the_library(tmp_path: Path) -> None:
    """What goes, and when, is decided here."""
    file = opened(tmp_path / "records")
    assert file._cache is not None
    assert (file._cache.eviction_policy, file._cache.cull_limit, file._cache.statistics) == ("none", 0, 0)
    file.close()
