"""Copies made by the project, judged by the reference library: it opens and verifies them, and reads what the originals hold."""

import gzip
import io
import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from registry_proxy.lazy.convert.layer import convert_layer
from registry_proxy.lazy.convert.values import ConvertedLayer, Options
from tests.lazy import hard
from tests.lazy.layers import sha256
from tests.setup import images
from tests.setup import layout as oci
from tests.setup.programs import program

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
XATTR = "SCHILY.xattr."


def esgz(*words: str | Path) -> Any:
    """What the reference library says."""
    done = subprocess.run([program("esgz"), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def converted(layer: bytes, work: Path, options: Options) -> ConvertedLayer:
    """Converts to `work/copy`."""
    return convert_layer(io.BytesIO(layer), LAYER, work / "copy", options=options)


def expected(plain: bytes) -> dict[str, dict[str, Any]]:
    """What the reader should say of each path of a tar without names that come again."""
    told: dict[str, dict[str, Any]] = {}
    for path, made, data in hard.entries(plain):
        if made.islnk():
            told[shown(path)] = told[shown(hard.clean(made.linkname))]
            continue
        seconds, point, fraction = made.pax_headers.get("mtime", str(made.mtime)).partition(".")
        time = datetime.fromtimestamp(int(seconds), UTC).replace(tzinfo=None)
        told[shown(path)] = {
            "type": hard.kind(made),
            "size": len(data or b""),
            "digest": "" if data is None else sha256(data),
            "link": made.linkname,
            "mode": made.mode,
            "uid": made.uid,
            "gid": made.gid,
            "modtime": f"{time.isoformat()}{point}{fraction.rstrip('0')}Z",
            "major": made.devmajor if made.isdev() and not made.isfifo() else 0,
            "minor": made.devminor if made.isdev() and not made.isfifo() else 0,
            "xattrs": {key.removeprefix(XATTR) for key in made.pax_headers if key.startswith(XATTR)},
        }
    return told


def shown(path: str) -> str:
    """A name as JSON can say it."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def check_against(plain: bytes, work: Path) -> None:
    """The reader tells of `work/copy` what the tar holds, entry by entry."""
    wanted = expected(plain)
    told = {
        entry["path"]: {key: entry[key] for key in wanted[entry["path"]]} | {"xattrs": set(entry["xattrs"] or {})}
        for entry in esgz("list", work / "copy")
        if entry["path"] in wanted
    }
    assert told == wanted


@pytest.mark.parametrize("name", hard.TARS)
@pytest.mark.parametrize("first", [False, True], ids=["in place", "rearranged"])
def test_hard_tars(name: str, first: bool, work: Path) -> None:
    """Every kind of entry, in place and rearranged: verified chunk by chunk, and all of it as in the original."""
    plain = hard.TARS[name]
    prioritized = tuple(hard.contents(plain))[-1:] if first else ()
    said = converted(gzip.compress(plain), work, Options(chunk_size=100_000, prioritized=prioritized))
    assert esgz("verify", work / "copy", str(said.toc_digest))["files"] > 0
    check_against(plain, work)


def test_names_that_come_again(work: Path) -> None:
    """The reader sees what unpacking would have left."""
    converted(gzip.compress(hard.twice()), work, Options())
    told = {entry["path"]: entry["digest"] for entry in esgz("list", work / "copy") if entry["type"] == "reg"}
    assert {path: digest for path, digest in told.items() if not path.startswith(".")} == {
        path: sha256(data) for path, data in hard.TWICE.items()
    }


def test_small_files_share_members(work: Path) -> None:
    """Files behind others in one member are read right (the library's own verifier knows no such layers)."""
    plain = hard.TARS["many kinds"]
    converted(gzip.compress(plain), work, Options(chunk_size=100_000, min_chunk=50_000))
    check_against(plain, work)


@pytest.mark.parametrize("prioritized", [False, True], ids=["in place", "rearranged"])
def test_layers_of_an_image(prioritized: bool, work: Path, figure: Callable[[str], None]) -> None:
    """All files of a stock image with Python and numpy, by both paths."""
    layout = images.layout("py")
    opened = tuple((layout.parent / "opened").read_text(encoding="utf-8").split()) if prioritized else ()
    for described in oci.manifest(layout)["layers"]:
        layer = oci.blob(layout, described["digest"]).read_bytes()
        said = converted(layer, work, Options(prioritized=opened))
        told = esgz("verify", work / "copy", str(said.toc_digest))
        check_against(gzip.decompress(layer), work)
        figure(
            f"a layer of {len(layer) / 1e6:.0f} MB converted: {said.size / 1e6:.0f} MB, {told['files']} files verified"
        )
