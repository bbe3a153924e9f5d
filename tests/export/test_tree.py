"""The tree: whole and verified, or not at all."""

import hashlib
import stat
from pathlib import Path

import pytest

from registry_proxy.errors import PublishFailed
from registry_proxy.export.tree import Tree
from registry_proxy.oci.content import HintedBlob
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost, Tag

HOST, REPOSITORY = SourceHost("registry.example"), Repository("team/app")
DATA = bytes(range(256)) * 100


def hinted(data: bytes) -> HintedBlob:
    return HintedBlob(Digest.of(data), len(data))


def contents(root: Path) -> set[str]:
    """Every file and link below, by its path."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def where(data: bytes) -> str:
    digits = Digest.of(data).hex
    return f"blobs/sha256/{digits[:2]}/{digits}"


def publish(tree: Tree, data: bytes, blob: HintedBlob | None = None) -> None:
    with tree.blob(blob or hinted(data)) as writer:
        for start in range(0, len(data), 1000):
            writer.write(data[start : start + 1000])
        writer.commit()


def test_a_blob_appears_when_it_is_whole(tmp_path: Path) -> None:
    """Not before its commit, then with its bytes, readable by everybody; nothing else stays."""
    with Tree(tmp_path / "new" / "tree") as tree:
        root = tmp_path / "new" / "tree"
        with tree.blob(hinted(DATA)) as writer:
            writer.write(DATA)
            assert not (root / where(DATA)).exists()
            assert not tree.has(hinted(DATA))
            writer.commit()
        assert tree.has(hinted(DATA))
    assert contents(root) == {where(DATA)}
    assert (root / where(DATA)).read_bytes() == DATA
    assert stat.S_IMODE((root / where(DATA)).stat().st_mode) & 0o444 == 0o444
    assert not (root / ".partial").exists()


@pytest.mark.parametrize("graft", [None, (4096, "sha1")])
@pytest.mark.parametrize("wrong", [DATA[:-1], DATA + b"x", DATA[:-1] + b"x", b""])
def test_wrong_bytes_never_appear(wrong: bytes, graft: tuple[int, str] | None, tmp_path: Path) -> None:
    """Too few, too many or other bytes than the digest's are refused and leave no trace."""
    with Tree(tmp_path, graft) as tree, pytest.raises(PublishFailed, match="that are not sha256:"):
        publish(tree, wrong, hinted(DATA))
    assert contents(tmp_path) == set()


def test_what_is_given_up_leaves_no_trace(tmp_path: Path) -> None:
    """Without a commit nothing stays, be it for an error or not."""
    with Tree(tmp_path) as tree:
        with tree.blob(hinted(DATA)) as writer:
            writer.write(DATA)
        with pytest.raises(KeyError), tree.blob(hinted(DATA)) as writer:
            raise KeyError
    assert contents(tmp_path) == set()


def test_a_short_blob_from_elsewhere_is_replaced(tmp_path: Path) -> None:
    """A file of another size than the blob's does not count as published."""
    file = tmp_path / where(DATA)
    file.parent.mkdir(parents=True)
    file.write_bytes(DATA[:10])
    with Tree(tmp_path) as tree:
        assert not tree.has(hinted(DATA))
        publish(tree, DATA)
    assert file.read_bytes() == DATA


def test_what_a_killed_run_left_is_thrown_away(tmp_path: Path) -> None:
    """Half-written files of an earlier run neither stay nor are in the way."""
    left = tmp_path / ".partial" / f"sha256-{Digest.of(DATA).hex}"
    left.mkdir(parents=True)
    with Tree(tmp_path) as tree:
        publish(tree, DATA)
    assert contents(tmp_path) == {where(DATA)}


def test_one_publisher_at_a_time(tmp_path: Path) -> None:
    """A second one is told; when the first is done it may go."""
    with Tree(tmp_path), pytest.raises(PublishFailed, match="somebody else"), Tree(tmp_path):
        pass
    with Tree(tmp_path):
        pass


@pytest.mark.parametrize("algorithm", ["sha1", "shake128"])
def test_grafts_of_a_blob(algorithm: str, tmp_path: Path) -> None:
    """Per chunk an empty file and its graft, at the path of the chunk object; not one byte of the blob."""
    with Tree(tmp_path, (4096, algorithm)) as tree:
        assert not tree.has(hinted(DATA))
        publish(tree, DATA)
        assert tree.has(hinted(DATA))
    directory = tmp_path / "chunks/v1/sha256" / Digest.of(DATA).hex / "4096"
    count = -(-len(DATA) // 4096)
    names = {str(index) for index in range(count)}
    assert {path.name for path in directory.iterdir()} == names | {f".cvmfsgraft-{name}" for name in names}
    for index in range(count):
        chunk = DATA[4096 * index : 4096 * (index + 1)]
        checksum = (
            hashlib.sha1(chunk).hexdigest()
            if algorithm == "sha1"
            else hashlib.shake_128(chunk).hexdigest(20) + "-shake128"
        )
        wanted = f"size={len(chunk)}\nchecksum={checksum}\ncompression=none\n"
        assert (directory / f".cvmfsgraft-{index}").read_text() == wanted
        assert (directory / str(index)).stat().st_size == 0


def test_manifests_and_tags(tmp_path: Path) -> None:
    """A manifest lies where the registry API has it; its tag is a link that moves in one step."""
    one, two = b'{"manifest": 1}', b'{"manifest": 2}'
    directory = tmp_path / "v2/registry.example/team/app/manifests"
    with Tree(tmp_path) as tree:
        for body in (one, two):
            assert tree.manifest(HOST, REPOSITORY, body)
            assert not tree.manifest(HOST, REPOSITORY, body)
            assert tree.tag(HOST, REPOSITORY, Tag("v1"), Digest.of(body))
            assert not tree.tag(HOST, REPOSITORY, Tag("v1"), Digest.of(body))
            assert (directory / "v1").read_bytes() == body
            assert (directory / "v1").readlink() == Path(str(Digest.of(body)))
    assert {path.name for path in directory.iterdir()} == {"v1", str(Digest.of(one)), str(Digest.of(two))}


def test_a_disk_that_fails_is_told(tmp_path: Path) -> None:
    """Trouble with the tree is a PublishFailed that says where, and nothing appears."""
    (tmp_path / "blobs").write_bytes(b"in the way")
    with Tree(tmp_path) as tree, pytest.raises(PublishFailed, match="blobs"):
        publish(tree, DATA)
    assert contents(tmp_path) == {"blobs"}
