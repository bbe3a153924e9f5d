"""The images of the tests, each an OCI layout in the cache.

`py` has python3 and numpy (2 layers), `analysis` a scientific workbench of 1.1 GB for load tests (3 layers), `tiny`
three layers of noise. `-esgz` is the eStargz form with the files of a first import up front, `-esgz-converted` the same
without that, `-zstdchunked` the form that podman can pull in parts.
"""

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.setup import layout as oci
from tests.setup.cache import ROOT, once, run
from tests.setup.layers import Layer, Seen, pack
from tests.setup.programs import program
from tests.setup.rootfs import bootstrap, opened
from tests.setup.rootfs import install as install_in

VERSION = 4  # raise it when a recipe changes: every image is built anew
PYTHON = ("python3", "python3-numpy")
ANALYSIS = (
    "python3-scipy", "python3-pandas", "python3-matplotlib", "python3-h5py",
)  # fmt: skip
WORKBENCH = ("samtools", "bcftools", "bwa", "bedtools", "r-base", "openjdk-17-jre-headless", "g++")
MEBIBYTE = 1 << 20


def debian(*layers: tuple[str, ...], starts: str) -> Callable[[Path], None]:
    """A recipe: Debian, then one layer for each set of packages; `starts` is the Python that a start of it runs."""

    def make(new: Path) -> None:
        root, scratch, started = new.with_name("root"), new.with_name("scratch"), time.time()
        scratch.mkdir()
        bootstrap(root)
        seen: Seen = {}
        packed = []
        for number, packages in enumerate([(), *layers]):
            if packages:
                install_in(root, packages)
            layer, seen = pack(root, seen, scratch / f"layer-{number}", started)
            packed.append(layer)
        new.mkdir()
        oci.write(new / "layout", packed, ["/usr/bin/python3"])
        files = opened(root, ("/usr/bin/python3", "-c", starts), scratch)
        (new / "opened").write_text("\n".join([*files, ""]), encoding="utf-8")

    return make


def noise(*sizes: int) -> Callable[[Path], None]:
    """A recipe: one layer of random bytes for each size."""

    def make(new: Path) -> None:
        packed, seen, root = [], Seen(), new.with_name("root")
        root.mkdir()
        for number, size in enumerate(sizes):
            (root / f"noise-{number}").write_bytes(random.Random(number).randbytes(size))
            layer, seen = pack(root, seen, new.with_name(f"layer-{number}"), started=0)
            packed.append(layer)
        new.mkdir()
        oci.write(new / "layout", packed, ["/noise-0"])

    return make


def estargz(source: str, *, prioritized: bool) -> Callable[[Path], None]:
    """A recipe: another image, its layers made eStargz by the reference library."""

    def make(new: Path) -> None:
        plain = layout(source)
        first = ["-prioritized", str(plain.parent / "opened")] if prioritized else []
        packed = []
        for number, described in enumerate(oci.manifest(plain)["layers"]):
            blob = new.with_name(f"layer-{number}")
            told = json.loads(run(program("esgz"), "build", *first, oci.blob(plain, described["digest"]), blob))
            annotations = {
                "containerd.io/snapshot/stargz/toc.digest": told["toc_digest"],
                "io.containers.estargz.uncompressed-size": str(told["uncompressed"]),
            }
            packed.append(Layer(blob, told["digest"], told["size"], told["diff_id"], annotations=annotations))
        new.mkdir()
        oci.write(new / "layout", packed, oci.config(plain)["config"]["Cmd"])

    return make


def zstd_chunked(source: str) -> Callable[[Path], None]:
    """A recipe: another image, recompressed by skopeo."""

    def make(new: Path) -> None:
        new.mkdir()
        # skopeo would reuse what its blob-info cache says of the source's layers: it gets an empty one
        fresh = 'mkdir -p /var/lib/containers && mount -t tmpfs none /var/lib/containers && exec "$@"'
        run("unshare", "--mount", "--propagation", "private", "sh", "-c", fresh, "sh",
            "skopeo", "copy", "--insecure-policy", "--quiet", "--dest-compress-format", "zstd:chunked",
            f"oci:{layout(source)}:latest", f"oci:{new / 'layout'}:latest")  # fmt: skip

    return make


RECIPES: dict[str, Callable[[Path], None]] = {
    "tiny": noise(5 * MEBIBYTE // 2, 3 * MEBIBYTE + 17, 100_001),
    "py": debian(PYTHON, starts="import numpy"),
    "py-esgz": estargz("py", prioritized=True),
    "py-zstdchunked": zstd_chunked("py"),
    "analysis": debian(PYTHON, (*ANALYSIS, *WORKBENCH), starts="import pandas"),
    "analysis-esgz": estargz("analysis", prioritized=True),
    "analysis-esgz-converted": estargz("analysis", prioritized=False),
}
TESTED = ("tiny", "py", "py-esgz", "py-zstdchunked")  # the others are for load tests: built when asked for


def layout(name: str) -> Path:
    """The directory of an image's OCI layout, made if need be."""
    return once(ROOT / "images" / f"{name}-{VERSION}", RECIPES[name]) / "layout"


def install() -> None:
    """Makes the images that the tests need."""
    for name in TESTED:
        layout(name)
