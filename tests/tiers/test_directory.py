"""The store's directory: what it refuses, and what it says then."""

import os
from pathlib import Path

import pytest

from registry_proxy.errors import StoreUnusable
from registry_proxy.tiers import directory
from registry_proxy.tiers.directory import State, file_system, is_network, opened

CHUNK = 1 << 20

MOUNTS = r"""
22 27 0:21 / / rw,relatime - ext4 /dev/vda rw
23 22 0:22 / /home rw,relatime shared:1 - nfs4 server:/home rw
24 23 0:23 / /home/me/local\040disk rw - xfs /dev/vdb rw
25 22 0:24 / /mnt rw - ext4 /dev/vdc rw
26 22 0:25 / /mnt rw - fuse.sshfs me@far: rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/cache", "ext4"),
        ("/home", "nfs4"),
        ("/home/me", "nfs4"),
        ("/homes", "ext4"),
        ("/home/me/local disk/x", "xfs"),
        ("/mnt/x", "fuse.sshfs"),
    ],
)
def test_a_path_lies_on_the_innermost_and_newest_mount(path: str, kind: str) -> None:
    """The mount table is read as the kernel means it."""
    assert file_system(MOUNTS, path) == kind


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "lustre", "gpfs", "ceph", "afs", "fuse.sshfs", "fuse.s3fs", "fuse"]
)
def test_network_file_systems_are_known(kind: str) -> None:
    """Files on another machine are told by the type; an unknown FUSE file system may be anything."""
    assert is_network(kind)


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "tmpfs", "zfs", "overlay", "fuse.fuse-overlayfs", "fuseblk", ""]
)
def test_local_file_systems_are_fine(kind: str) -> None:
    """Files on this machine are told by the type."""
    assert not is_network(kind)


def test_a_network_file_system_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal names the kind and the option to change, and leaves nothing behind."""
    monkeypatch.setattr(directory, "file_system", lambda _mounts, _path: "nfs4")
    with pytest.raises(StoreUnusable, match=r"nfs4.*--store DIR"), opened(place, CHUNK):
        pass
    assert not place.exists()


def test_a_store_is_private(place: Path) -> None:
    """Nobody else may look into it, whatever the umask is and whatever the directory's mode was."""
    place.mkdir(mode=0o755)
    with opened(place, CHUNK):
        assert place.stat().st_mode & 0o777 == 0o700


def test_one_instance_at_a_time(place: Path) -> None:
    """The second one is told who has it and what to do; after the first has gone it gets the store."""
    refused = pytest.raises(StoreUnusable, match=rf"process {os.getpid()}\).*--store DIR")
    with opened(place, CHUNK), refused, opened(place, CHUNK):
        pass
    with opened(place, CHUNK):
        pass


def test_another_chunk_size_is_refused(place: Path) -> None:
    """One store has one chunk size; the refusal names both and the key."""
    with opened(place, CHUNK):
        pass
    with pytest.raises(StoreUnusable, match=r"1048576.*262144.*store\.chunk_size"), opened(place, CHUNK // 4):
        pass


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"version": 99, "chunk_size": 1048576}'])
def test_an_unknown_format_is_refused(place: Path, content: bytes) -> None:
    """What another version wrote, or nobody, is not touched."""
    with opened(place, CHUNK):
        pass
    (place / "format").write_bytes(content)
    with pytest.raises(StoreUnusable, match="empty the directory"), opened(place, CHUNK):
        pass


def test_a_directory_with_other_things_in_it_is_refused(place: Path) -> None:
    """A home directory given by mistake is neither made private nor written to."""
    place.mkdir(mode=0o755)
    (place / "thesis.tex").write_text("x")
    with pytest.raises(StoreUnusable, match=r"thesis\.tex"), opened(place, CHUNK):
        pass
    assert [entry.name for entry in place.iterdir()] == ["thesis.tex"]
    assert place.stat().st_mode & 0o777 == 0o755


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    """What cannot be created is said to be so."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusable, match="cannot be created"), opened(tmp_path / "file" / "store", CHUNK):
        pass


def test_leftovers_of_a_killed_instance_are_swept(place: Path) -> None:
    """Temporary files are of no use to anybody after a start."""
    with opened(place, CHUNK) as held:
        (held.layout.temporary / "x.part").write_bytes(b"half")
        (held.layout.temporary / "gone-1").mkdir()
        (held.layout.temporary / "gone-1" / "0").write_bytes(b"chunk")
    with opened(place, CHUNK) as held:
        assert list(held.layout.temporary.iterdir()) == []


def test_the_state_tells_a_clean_stop_from_a_crash(place: Path) -> None:
    """Clean is what was written last in order; from the next start on it is not clean until it is written again."""
    with opened(place, CHUNK) as held:
        assert held.left == State(clean=True, bytes=0)
        held.write_state(State(clean=True, bytes=5))
    with opened(place, CHUNK) as held:
        assert held.left == State(clean=True, bytes=5)
    with opened(place, CHUNK) as held:
        assert held.left == State(clean=False, bytes=5)
        (place / "state").write_bytes(b"nonsense")
    with opened(place, CHUNK) as held:
        assert held.left is None
