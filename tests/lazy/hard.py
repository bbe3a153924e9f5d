"""Tars with everything that makes layers hard, and what each of them unpacks to."""

import hashlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.lazy.layers import entry_tar, link, tar

NOISE = hashlib.shake_256(b"noise").digest(300_000)
_KINDS = {
    tarfile.REGTYPE: "reg", tarfile.AREGTYPE: "reg", tarfile.LNKTYPE: "hardlink", tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "char", tarfile.BLKTYPE: "block", tarfile.DIRTYPE: "dir", tarfile.FIFOTYPE: "fifo",
    tarfile.GNUTYPE_SPARSE: "reg",
}  # fmt: skip


def info(name: str, **fields: Any) -> tarfile.TarInfo:
    """A header with these fields."""
    made = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def many_kinds() -> bytes:
    """Every kind of entry, in POSIX form: whiteouts, links, devices, extended attributes, odd names, owners and times."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        directory = {"type": tarfile.DIRTYPE, "mode": 0o755, "mtime": 1_600_000_000}
        files: list[tuple[tarfile.TarInfo, bytes]] = [
            (info("./", **directory), b""),
            (info("./usr", **directory, uname="root", gname="root"), b""),
            (info("usr/plain", mode=0o4755, uid=1, gid=2, uname="daemon", gname="bin", mtime=1_600_000_000), b"plain\n"),
            (info("usr/empty", mode=0o600), b""),
            (info("usr/block", mode=0o644), NOISE[:512]),
            (info("usr/large", mode=0o644), NOISE),
            (info("usr/fraction", mtime=1_600_000_000.25), b"f"),
            (info("usr/early", mtime=-86_400), b"e"),
            (info("usr/owned", uid=70_000_000, gid=3_000_000, uname="müller"), b"o"),
            (info("usr/" + "n" * 180 + "/" + "m" * 200), b"long"),
            (info("usr/ünï", pax_headers={"SCHILY.xattr.user.mark": "wört", "comment": "c"}), b"x"),
            (info("usr/capable", pax_headers={"SCHILY.xattr.security.capability": "\x01\0\0\x02\0 \0\0"}), b"cap"),
            (info("usr/b\udcffd", mode=0o644), b"no utf-8"),
            (info("usr/symbolic", type=tarfile.SYMTYPE, linkname="../" * 60 + "plain"), b""),
            (info("usr/hard", type=tarfile.LNKTYPE, linkname="usr/plain"), b""),
            (info("usr/harder", type=tarfile.LNKTYPE, linkname="./usr/hard"), b""),
            (info("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666), b""),
            (info("dev/disk", type=tarfile.BLKTYPE, devmajor=8, devminor=1), b""),
            (info("dev/pipe", type=tarfile.FIFOTYPE), b""),
            (info("etc/.wh.gone"), b""),
            (info("etc/.wh..wh..opq"), b""),
        ]  # fmt: skip
        for made, data in files:
            made.size = len(data)
            archive.addfile(made, io.BytesIO(data))
    return out.getvalue()


def gnu() -> bytes:
    """GNU's long names and links and its numbers in base 256."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for made, data in (
            (info("d/" * 80 + "file", uid=5_000_000, mtime=-3), b"long"),
            (info("l" * 120, type=tarfile.SYMTYPE, linkname="t" * 150), b""),
            (info("k" * 130, type=tarfile.LNKTYPE, linkname="d/" * 80 + "file"), b""),
        ):
            made.size = len(data)
            archive.addfile(made, io.BytesIO(data))
    return out.getvalue()


def sparse(form: str) -> bytes:
    """A file with holes and one without, by GNU tar: ``gnu``, ``0.0``, ``0.1`` or ``1.0``."""
    with tempfile.TemporaryDirectory() as directory:
        holes = Path(directory, "with-holes")
        with holes.open("wb") as file:
            for place in (0, 1 << 20, (5 << 20) + 1000):
                file.seek(place)
                file.write(NOISE[: 4096 * 3])
            file.truncate(6 << 20)
        Path(directory, "hollow").touch()
        with Path(directory, "hollow").open("wb") as file:
            file.truncate(100_000)
        Path(directory, "solid").write_bytes(NOISE)
        words = ["--format=gnu"] if form == "gnu" else ["--format=posix", f"--sparse-version={form}"]
        command = ["tar", "-C", directory, "--sparse", *words, "-cf", "-", "with-holes", "hollow", "solid"]
        return subprocess.run(command, check=True, capture_output=True).stdout


def twice() -> bytes:
    """Names that come again, and hard links to what was replaced: the last one counts, links keep what they had."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for made, data in (
            (info("a"), b"first a"),
            (info("b", type=tarfile.LNKTYPE, linkname="a"), b""),
            (info("c", type=tarfile.LNKTYPE, linkname="b"), b""),
            (info("./a"), b"second a"),
            (info("d", type=tarfile.LNKTYPE, linkname="a"), b""),
            (info("e"), b"first e"),
            (info("e", type=tarfile.SYMTYPE, linkname="a"), b""),
        ):
            made.size = len(data)
            archive.addfile(made, io.BytesIO(data))
    return out.getvalue()


TWICE = {"a": b"second a", "b": b"first a", "c": b"first a", "d": b"second a"}


def already() -> bytes:
    """What a layer unpacks to that was eStargz before."""
    return tar({".prefetch.landmark": b"\x0f", "a": b"a", ".no.prefetch.landmark": b"\x0f", "stargz.index.json": b"{}"})


def with_global_header() -> bytes:
    """As `git archive` makes them: a comment for all of the tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", pax_headers={"comment": "0123456789abcdef"}) as archive:
        archive.addfile(info("a", size=1), io.BytesIO(b"a"))
    return out.getvalue()


TARS: Mapping[str, bytes] = {
    "many kinds": many_kinds(),
    "gnu": gnu(),
    "ustar": tar({"p" * 90 + "/" + "q" * 90: b"prefix", "short": b"s"}, tarfile.USTAR_FORMAT),
    "sparse gnu": sparse("gnu"),
    "sparse 0.0": sparse("0.0"),
    "sparse 0.1": sparse("0.1"),
    "sparse 1.0": sparse("1.0"),
    "already": already(),
    "global": with_global_header(),
    "links": entry_tar([info("f"), link("g", "f"), link("h", "g")]),
    "no entries": tar({}),
    "two blocks": bytes(1024),
}


def contents(plain: bytes) -> dict[str, bytes]:
    """The regular files and hard links of a tar by clean path, as Python unpacks them; the format's own files left out."""
    return {path: data for path, _, data in entries(plain) if data is not None}


def entries(plain: bytes) -> Iterator[tuple[str, tarfile.TarInfo, bytes | None]]:
    """Each entry with its clean path and, for regular files and hard links, contents."""
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        for made in archive:
            path = clean(made.name)
            if path in {".prefetch.landmark", ".no.prefetch.landmark", "stargz.index.json"}:
                continue
            held = archive.extractfile(made) if made.isfile() or made.islnk() else None
            yield path, made, held.read() if held else None


def clean(name: str) -> str:
    """The path that a name means."""
    return "/".join(part for part in name.split("/") if part not in {"", "."})


def kind(made: tarfile.TarInfo) -> str:
    """What TOCs call it."""
    return _KINDS[made.type]
