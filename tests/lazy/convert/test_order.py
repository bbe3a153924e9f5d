"""Any sequence of entries: the copy holds what unpacking the layer leaves, in an order that unpacks."""

import gzip
import io
import tarfile
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from registry_proxy.lazy.convert.layer import convert_layer
from registry_proxy.lazy.convert.order import Kept, arranged
from registry_proxy.lazy.convert.values import Options
from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.files import LayerFile, regular_file
from registry_proxy.lazy.layers import own_index
from tests.lazy.hard import info

LAYER = "application/vnd.oci.image.layer.v1.tar"
NAMES = st.sampled_from(["a", "b", "c", "./a", "d/a", "d/b", "d", "d/e/f"])
ENTRIES = st.lists(
    st.tuples(st.sampled_from([tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE]), NAMES, NAMES),
    max_size=9,
)
Tree = dict[str, tuple[str, bytes]]


def unpacked(entries: list[tuple[bytes, str, str]]) -> Tree | None:
    """Kind and contents of each path, or None where a tar cannot be unpacked so or a TOC cannot say it."""
    tree: Tree = {}
    for number, (type_, name, target) in enumerate(entries):
        path, to = name.removeprefix("./"), target.removeprefix("./")
        if type_ == tarfile.LNKTYPE:
            if to not in tree or tree[to][0] == "dir":
                return None
            found = tree[to]
        else:
            found = {
                tarfile.REGTYPE: ("reg", str(number).encode()),
                tarfile.SYMTYPE: ("symlink", target.encode()),
                tarfile.DIRTYPE: ("dir", b""),
            }[type_]
        tree.pop(path, None)
        tree[path] = found
    for path in tree:
        if any(path.startswith(f"{other}/") and tree[other][0] != "dir" for other in tree):
            return None
    return tree


def packed(entries: list[tuple[bytes, str, str]]) -> bytes:
    """Their tar; a regular file holds its number."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number, (type_, name, target) in enumerate(entries):
            data = str(number).encode() if type_ == tarfile.REGTYPE else b""
            linkname = target if type_ in {tarfile.LNKTYPE, tarfile.SYMTYPE} else ""
            archive.addfile(info(name, type=type_, linkname=linkname, size=len(data)), io.BytesIO(data))
    return out.getvalue()


@settings(max_examples=200, deadline=None)
@given(ENTRIES, st.lists(NAMES, max_size=3))
def test_the_copy_is_what_unpacking_leaves(entries: list[tuple[bytes, str, str]], prioritized: list[str]) -> None:
    """Read lazily and unpacked whole alike; what has no right copy is refused."""
    wanted = unpacked(entries)
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "copy")
        try:
            said = convert_layer(
                io.BytesIO(packed(entries)), LAYER, out, options=Options(prioritized=tuple(prioritized))
            )
        except LayerRefused:
            assert wanted is None
            return
        copy = out.read_bytes()
    assert wanted is not None
    index = own_index(len(copy), said.annotations, lambda span: copy[span.start : span.stop])
    assert index is not None

    def seen(path: str, file: LayerFile) -> tuple[str, bytes]:
        if file.kind == "hardlink":
            file = index.files[file.link]
        if file.kind != "reg":
            return file.kind, file.link.encode()
        return "reg", b"".join(index.content(regular_file(index, path), lambda span: copy[span.start : span.stop]))

    told = {path: seen(path, file) for path, file in index.files.items() if not path.endswith(".landmark")}
    assert told == wanted
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(copy))) as archive, tempfile.TemporaryDirectory() as root:
        archive.extractall(root, filter="tar")
        for path, (kind, data) in wanted.items():
            if kind == "reg":
                assert Path(root, path).read_bytes() == data


def test_what_a_hard_link_needs_comes_with_it() -> None:
    """Of a chain of links only the file at its end, with that file's directories."""
    kept = [
        Kept(b"d", "dir", b"", 0, 1),
        Kept(b"d/file", "reg", b"", 1, 2),
        Kept(b"one", "hardlink", b"d/file", 2, 3),
        Kept(b"two", "hardlink", b"one", 3, 4),
    ]
    first, rest = arranged(kept, ["two"])
    assert [(step.number, step.link) for step in first] == [(0, None), (1, None), (3, b"d/file")]
    assert [step.number for step in rest] == [2]
