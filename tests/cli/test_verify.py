"""verify: what it reads, what it drops, what it refuses to touch."""

import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from registry_proxy.cli import main
from registry_proxy.tiers.directory import VERSION, Format
from registry_proxy.tiers.layout import Layout


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a right chunk and a decayed one."""
    root = tmp_path / "store"
    root.mkdir(mode=0o700)
    Layout(root).format.write_bytes(msgspec.json.encode(Format(VERSION, 65536)))
    put(root, b"right", b"right")
    put(root, b"wrong", b"wr0ng")
    return root


def put(root: Path, data: bytes, on_disk: bytes) -> Path:
    digits = hashlib.sha256(data).hexdigest()
    path = root / "chunks" / digits[:2] / digits / "0" / "0"
    path.parent.mkdir(parents=True)
    path.write_bytes(on_disk + hashlib.sha256(data).digest())
    return path


def test_what_is_wrong_is_dropped_and_counted(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A decayed chunk goes, a right one stays, and the store counts as repaired: exit code 0."""
    assert main.run(["verify", "--store", str(store), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["chunks"], found["wrong"], found["bytes"]) == (2, 1, 5)
    [left] = [path for path in (store / "chunks").rglob("*") if path.is_file()]
    assert left.read_bytes().startswith(b"right")


def test_the_result_is_two_lines(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For a person: how much was hashed, how much was dropped."""
    assert main.run(["verify", "--store", str(store)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{store}: 2 chunks, 5 B in ")
    assert second == "dropped: 1 wrong chunk, 0 leftovers"


def test_a_directory_that_is_no_store_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory without a store's format file is refused, and nothing in it is removed."""
    theirs = tmp_path / "theirs" / "chunks" / "ab" / "of mine"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("keep")
    assert main.run(["verify", "--store", str(tmp_path / "theirs")]) == 1
    assert f"there is no store at {tmp_path / 'theirs'}" in capsys.readouterr().err
    assert theirs.read_text() == "keep"


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 99, "chunk_size": 65536}', b"\xff"])
def test_a_store_that_cannot_be_read_is_told(content: bytes, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken or foreign format file is exit code 1, and no chunk is touched."""
    Layout(store).format.write_bytes(content)
    assert main.run(["verify", "--store", str(store)]) == 1
    assert "format" in capsys.readouterr().err
    assert len([path for path in (store / "chunks").rglob("*") if path.is_file()]) == 2
