"""Copies of layers: every file as it was, whatever the tar and its compression, in the order asked for."""

import gzip
import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import zstandard

from registry_proxy.lazy.convert import codec
from registry_proxy.lazy.convert.layer import convert_layer
from registry_proxy.lazy.convert.values import ConvertedLayer, Options
from registry_proxy.lazy.files import regular_file
from registry_proxy.lazy.layers import own_index
from registry_proxy.lazy.toc import TocIndex
from tests.lazy import hard
from tests.lazy.layers import sha256, tar

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
SMALL = Options(chunk_size=100_000)


def converted(layer: bytes, directory: Path, options: Options = SMALL) -> tuple[bytes, ConvertedLayer, TocIndex]:
    """The copy, what is said of it, and its index; what is said must be so."""
    out = directory / "copy"
    said = convert_layer(io.BytesIO(layer), LAYER, out, options=options)
    copy = out.read_bytes()
    assert (len(copy), sha256(copy)) == (said.size, str(said.digest))
    plain = gzip.decompress(copy)
    assert (len(plain), sha256(plain)) == (said.uncompressed_size, str(said.diff_id))
    assert [path.name for path in directory.iterdir()] == ["copy"]
    index = own_index(len(copy), said.annotations, lambda span: copy[span.start : span.stop])
    assert isinstance(index, TocIndex)
    return copy, said, index


def rows(copy: bytes) -> list[dict[str, Any]]:
    """The rows of the copy's TOC."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(copy))) as archive:
        toc = archive.extractfile("stargz.index.json")
        assert toc is not None
        found = json.load(toc)
    assert found["version"] == 1
    return list(found["entries"])


def check_files(copy: bytes, index: TocIndex, expected: dict[str, bytes]) -> None:
    """Each file read lazily and from the whole tar is what is expected."""
    for path, data in expected.items():
        shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        file = regular_file(index, shown)
        assert b"".join(index.content(file, lambda span: copy[span.start : span.stop])) == data
    assert hard.contents(gzip.decompress(copy)) == expected


@pytest.mark.parametrize("name", hard.TARS)
def test_every_file_reads_back(name: str, tmp_path: Path) -> None:
    """Through the TOC and from the whole tar alike."""
    plain = hard.TARS[name]
    copy, said, index = converted(gzip.compress(plain), tmp_path)
    check_files(copy, index, hard.contents(plain))
    assert said.files == len(list(hard.entries(plain)))


@pytest.mark.parametrize("name", ["many kinds", "gnu", "ustar", "links"])
def test_headers_stay_as_they_are(name: str, tmp_path: Path) -> None:
    """Whoever unpacks the whole copy gets every attribute of the original: its blocks are the original's."""
    plain = hard.TARS[name]
    copy, _, _ = converted(gzip.compress(plain), tmp_path)
    end = plain.rindex(plain.rstrip(b"\0")[-1:]) // 512 * 512 + 512
    assert gzip.decompress(copy)[1024:].startswith(plain[:end])  # behind the landmark


def test_rows_say_what_headers_say(tmp_path: Path) -> None:
    """Kinds, links, owners, modes, times, devices and extended attributes stand in the TOC; a user's name only where it changes."""
    copy, _, _ = converted(gzip.compress(hard.TARS["many kinds"]), tmp_path)
    found = {row["name"]: row for row in rows(copy) if row["type"] != "chunk"}
    assert found["usr/plain"] | {"offset": 0, "digest": "", "chunkDigest": ""} == {
        "name": "usr/plain", "type": "reg", "size": 6, "modtime": "2020-09-13T12:26:40Z", "mode": 0o4755, "uid": 1, "gid": 2,
        "userName": "daemon", "groupName": "bin", "offset": 0, "digest": "", "chunkDigest": "",
    }  # fmt: skip
    assert found["usr/fraction"]["modtime"] == "2020-09-13T12:26:40.25Z"
    assert found["usr/early"]["modtime"] == "1969-12-31T00:00:00Z"
    assert found["usr/ünï"]["xattrs"] == {"user.mark": "d8O2cnQ="}
    assert found["usr/owned"]["userName"] == "müller"
    assert found["usr/b\ufffdd"]["size"] == 8
    assert found["usr/symbolic"]["linkName"] == "../" * 60 + "plain"
    assert (found["usr/harder"]["type"], found["usr/harder"]["linkName"]) == ("hardlink", "./usr/hard")
    assert (found["dev/null"]["type"], found["dev/null"]["devMajor"], found["dev/null"]["devMinor"]) == ("char", 1, 3)
    assert (found["dev/disk"]["type"], found["dev/pipe"]["type"]) == ("block", "fifo")
    assert found["usr/empty"]["digest"] == sha256(b"")
    assert "userName" in found["./usr/"]
    assert "userName" not in found["usr/empty"]


def test_a_large_file_is_cut_into_chunks(tmp_path: Path) -> None:
    """A member and a digest for each, the whole file's digest beside them."""
    copy, _, _ = converted(gzip.compress(hard.TARS["many kinds"]), tmp_path)
    [at] = [number for number, row in enumerate(rows(copy)) if row["name"] == "usr/large" and row["type"] == "reg"]
    first, second, third, after = rows(copy)[at : at + 4]
    assert first["digest"] == sha256(hard.NOISE)
    assert [row.get("chunkOffset", 0) for row in (first, second, third)] == [0, 100_000, 200_000]
    assert [row["chunkSize"] for row in (first, second, third)] == [100_000] * 3
    for row, data in zip(
        (first, second, third), (hard.NOISE[i : i + 100_000] for i in (0, 100_000, 200_000)), strict=True
    ):
        assert row["chunkDigest"] == sha256(data)
        assert zlib.decompressobj(31).decompress(copy[row["offset"] :]).startswith(data)
    assert after["type"] == "reg"


def packings(plain: bytes) -> dict[str, bytes]:
    """A tar in every form of a layer."""
    middle = len(plain) // 2
    compress = zstandard.ZstdCompressor().compress
    return {
        "gzip": gzip.compress(plain),
        "members": gzip.compress(plain[:700]) + gzip.compress(b"") + gzip.compress(plain[700:]),
        "tar": plain,
        "zstd": compress(plain),
        "frames": compress(plain[:middle]) + b"\x50\x2a\x4d\x18\3\0\0\0abc" + compress(plain[middle:]),
    }


@pytest.mark.parametrize("packing", ["gzip", "members", "tar", "zstd", "frames"])
@pytest.mark.parametrize("fast", [True, False], ids=["isal", "zlib"])
def test_every_compression(packing: str, fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are told by their bytes, with isal and without."""
    if not fast:
        monkeypatch.setattr(codec, "fast", None)
    plain = hard.TARS["many kinds"]
    copy, _, index = converted(packings(plain)[packing], tmp_path)
    check_files(copy, index, hard.contents(plain))


@pytest.mark.parametrize("layer", [b"", gzip.compress(b""), gzip.compress(bytes(1024))])
def test_empty_layers(layer: bytes, tmp_path: Path) -> None:
    """The copy of nothing has a landmark and a TOC."""
    copy, said, _ = converted(layer, tmp_path)
    assert [row["name"] for row in rows(copy)] == [".no.prefetch.landmark"]
    assert said.files == 0


def test_names_that_come_again(tmp_path: Path) -> None:
    """What the copy holds is what the layer unpacks to, hard links to replaced files included."""
    copy, _, index = converted(gzip.compress(hard.twice()), tmp_path)
    check_files(copy, index, hard.TWICE)
    assert index.files["e"].kind == "symlink"
    assert len([row for row in rows(copy) if row["name"].endswith("a")]) == 1


def test_a_profile_puts_files_first(tmp_path: Path) -> None:
    """In its order, with their directories and what hard links need, before the landmark; what is not there is passed over."""
    wanted = ("/usr/harder", "usr/large", "nowhere", "./usr/symbolic", "usr/large")
    options = Options(chunk_size=100_000, prioritized=wanted)
    plain = hard.TARS["many kinds"]
    copy, _, index = converted(gzip.compress(plain), tmp_path, options)
    names = list(dict.fromkeys(row["name"] for row in rows(copy)))
    assert names[:7] == ["./", "./usr/", "usr/plain", "usr/harder", "usr/large", "usr/symbolic", ".prefetch.landmark"]
    check_files(copy, index, hard.contents(plain))
    [mark] = [row for row in rows(copy) if row["name"] == ".prefetch.landmark"]
    before = [row["offset"] for row in rows(copy)[: rows(copy).index(mark)] if "offset" in row]
    assert max(before) < mark["offset"]


@pytest.mark.parametrize("name", ["sparse 1.0", "sparse gnu", "gnu", "many kinds"])
def test_hard_tars_in_another_order(name: str, tmp_path: Path) -> None:
    """Kept aside and read again, every file is what it was."""
    plain = hard.TARS[name]
    last = list(hard.contents(plain))[-1]
    copy, _, index = converted(gzip.compress(plain), tmp_path, Options(prioritized=(last,)))
    check_files(copy, index, hard.contents(plain))


def test_small_files_share_members(tmp_path: Path) -> None:
    """With a least member size, files lie behind each other in one member; the landmark still begins one."""
    files = {f"f{number}": hard.NOISE[:3000] for number in range(20)} | {"large": hard.NOISE}
    options = Options(chunk_size=100_000, min_chunk=10_000, prioritized=("f3",))
    copy, _, index = converted(gzip.compress(tar(files)), tmp_path, options)
    check_files(copy, index, files)
    found = [row for row in rows(copy) if row["type"] in {"reg", "chunk"}]
    assert len({row["offset"] for row in found}) <= 10
    [mark] = [row for row in found if row["name"] == ".prefetch.landmark"]
    assert "innerOffset" not in mark
    assert mark["offset"] > 0


def test_progress_ends_with_the_layer(tmp_path: Path) -> None:
    """The bytes taken grow up to the layer's size."""
    layer, seen = gzip.compress(hard.TARS["many kinds"]), list[int]()
    convert_layer(io.BytesIO(layer), LAYER, tmp_path / "copy", progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(layer)


def test_an_exception_from_progress_ends_it(tmp_path: Path) -> None:
    """Nothing is left of a conversion that was called off."""

    def stop(_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        convert_layer(io.BytesIO(gzip.compress(tar({"f": b"x"}))), LAYER, tmp_path / "copy", progress=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("level", [0, 1, 3, 6, 9])
def test_every_level(level: int, tmp_path: Path) -> None:
    """Whoever compresses, the files are the same, and what repeats becomes small."""
    files = {"f": b"some text " * 5000}
    copy, said, index = converted(gzip.compress(tar(files)), tmp_path, Options(level=level))
    check_files(copy, index, files)
    assert said.size < 5000


@pytest.mark.parametrize("wrong", [{"chunk_size": 0}, {"min_chunk": -1}, {"threads": 0}, {"level": 10}])
def test_options_that_make_no_sense(wrong: dict[str, int]) -> None:
    """A conversion that could never end is not begun."""
    with pytest.raises(ValueError, match="no such conversion"):
        Options(**wrong)  # type: ignore[arg-type]
