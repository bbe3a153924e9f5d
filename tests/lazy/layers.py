"""Layers for tests: tars, and the formats that carry an index."""

import gzip
import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Iterable, Mapping
from typing import Any

import zstandard


def tar(files: Mapping[str, bytes], format_: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of regular files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def entry_tar(infos: Iterable[tarfile.TarInfo]) -> bytes:
    """A tar of entries without contents."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info in infos:
            archive.addfile(info)
    return out.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    """A hard link."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.LNKTYPE, target
    return info


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _chunked(files: Mapping[str, bytes], chunk: int, frame: Any) -> tuple[bytes, list[dict[str, Any]]]:
    """The frames of these files, one per chunk, and their entries; an empty first frame keeps offset 0 for none."""
    body, entries = bytearray(frame(b"header")), []
    for name, data in files.items():
        parts = [data[at : at + chunk] for at in range(0, len(data), chunk)] or [b""]
        for number, part in enumerate(parts):
            entry: dict[str, Any] = {"name": name, "type": "chunk" if number else "reg"}
            if not number:
                entry |= {"size": len(data), "digest": sha256(data)}
            if part:
                entry |= {"offset": len(body), "chunkDigest": sha256(part), "chunkOffset": number * chunk}
                entry["chunkSize"] = len(part) if number + 1 < len(parts) else 0
                body += frame(part)
            entries.append(entry)
    return bytes(body), entries


def estargz(files: Mapping[str, bytes], chunk: int = 1000, legacy: bool = False) -> tuple[bytes, bytes]:
    """An eStargz layer, and its TOC's JSON."""
    body, entries = _chunked(files, chunk, gzip.compress)
    toc = json.dumps({"version": 1, "entries": entries}).encode()
    payload = b"%016xSTARGZ" % len(body)
    extra = payload if legacy else b"SG" + struct.pack("<H", len(payload)) + payload
    footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack("<H", len(extra)) + extra + b"\x01\0\0\xff\xff" + bytes(8)
    return body + gzip.compress(tar({"stargz.index.json": toc})) + footer, toc


def _skippable(data: bytes) -> bytes:
    return b"\x50\x2a\x4d\x18" + struct.pack("<I", len(data)) + data


def zstd_chunked(files: Mapping[str, bytes], dialect: str, chunk: int = 1000) -> tuple[bytes, dict[str, str]]:
    """A zstd:chunked layer of the dialect ``storage`` or ``stargz``, and its annotations."""
    compress = zstandard.ZstdCompressor().compress
    body, entries = _chunked(files, chunk, compress)
    if dialect == "storage":
        entries.append({"name": "hole", "type": "reg", "size": 3000, "chunkType": "zeros"})
    toc = json.dumps({"version": 1, "entries": entries}).encode()
    packed, at = compress(toc), len(body) + 8
    if dialect == "storage":
        footer = struct.pack("<7Q", at, len(packed), len(toc), 1, 0, 0, 0) + b"GNUlInUx"
        prefix = "io.github.containers.zstd-chunked"
    else:
        footer = struct.pack("<4Q", at, len(packed), len(toc), 1) + b"GnUlInUx"
        prefix = "io.containers.zstd-chunked"
    annotations = {
        f"{prefix}.manifest-checksum": sha256(packed),
        f"{prefix}.manifest-position": f"{at}:{len(packed)}:{len(toc)}:1",
    }
    return body + _skippable(packed) + _skippable(footer), annotations
