"""The table of contents that eStargz and zstd:chunked share (stargz-snapshotter docs/estargz.md), and files read by it."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Final

import msgspec

from registry_proxy.errors import DigestInvalid
from registry_proxy.lazy.failures import IndexInvalid
from registry_proxy.lazy.files import Extent, Extents, LayerFile, Read, joined, normal_path, read_exactly
from registry_proxy.lazy.frames import Content, Frames, Inflate
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.foreign import Unreadable, decode
from registry_proxy.plan.chunks import Span

MAX_TOC: Final = 256 << 20
"""Bytes of an uncompressed TOC that are taken into memory; the layer of a large image has some ten."""

_PIECE: Final = 1 << 20
_FILE_KINDS: Final = ("dir", "reg", "symlink", "hardlink", "char", "block", "fifo")


class TocEntry(msgspec.Struct, frozen=True, rename="camel"):
    """An entry, as much as reading needs. ``offset``: of the compressed frame in the layer; ``inner_offset``: bytes of other
    files before this one in the frame; a ``chunk_size`` of 0 is "up to the end of the file"."""

    name: str
    type: str
    size: int = 0
    link_name: str = ""
    digest: str = ""
    offset: int = 0
    end_offset: int = 0
    inner_offset: int = 0
    chunk_offset: int = 0
    chunk_size: int = 0
    chunk_digest: str = ""
    chunk_type: str = ""


class _Toc(msgspec.Struct, frozen=True):
    version: int
    entries: list[TocEntry]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes ``[at, at + size)`` of a file, ``inner`` bytes into the compressed frame ``span``; no span: all zeros."""

    at: int
    size: int
    span: Span | None
    inner: int
    digest: Digest | None


class TocIndex:
    """A layer with a TOC (LayerIndex). ``end``: where the layer's frames of files end; ``inflate``: of the layer's format."""

    def __init__(self, format_: str, toc: bytes, size: int, end: int, inflate: Inflate) -> None:
        """Raises IndexInvalid."""
        self._format = format_
        self._size = size
        self._inflate = inflate
        entries = _entries(toc)
        self._files: dict[str, LayerFile] = {}
        self._chunks: dict[str, tuple[Chunk, ...]] = {}
        for path, file, parts in _grouped(entries, _frames(entries, end)):
            self._files[path] = file
            self._chunks[path] = parts
        self._extents = Extents(
            Extent(chunk.span.start, chunk.span.stop, self._files[path])
            for path, parts in self._chunks.items()
            for chunk in parts
            if chunk.span is not None
        )

    @property
    def format(self) -> str:
        """The name of the format."""
        return self._format

    @property
    def size(self) -> int:
        """Bytes of the layer as it is stored."""
        return self._size

    @property
    def files(self) -> Mapping[str, LayerFile]:
        """By path."""
        return self._files

    def chunks(self, file: LayerFile) -> tuple[Chunk, ...]:
        """The parts of a file, in order."""
        return self._chunks[file.path]

    def spans(self, file: LayerFile) -> tuple[Span, ...]:
        """The frames that the file's chunks lie in."""
        return joined([chunk.span for chunk in self.chunks(file) if chunk.span is not None])

    def covered(self, span: Span) -> tuple[LayerFile, ...]:
        """The files with a chunk in a frame that these bytes lie in."""
        return self._extents.within(span.start, span.stop) if len(span) else ()

    def content(self, file: LayerFile, read: Read) -> Iterator[bytes]:
        """The file's contents; a chunk that is not what its digest says fails before the last piece of it is given."""
        for chunk in self.chunks(file):
            if chunk.span is None:
                yield from _zeros(chunk.size)
            else:
                yield from self._chunk(file, chunk, read_exactly(read, chunk.span))

    def _chunk(self, file: LayerFile, chunk: Chunk, frame: bytes) -> Iterator[bytes]:
        skip, left, held = chunk.inner, chunk.size, b""
        running = chunk.digest.hasher() if chunk.digest else hashlib.sha256()
        for piece in self._inflate(frame):
            part = piece[skip : skip + left]
            skip = max(skip - len(piece), 0)
            left -= len(part)
            running.update(part)
            if part:
                if held:
                    yield held
                held = part
            if not left:
                break
        if left or (chunk.digest and running.hexdigest() != chunk.digest.hex):
            raise IndexInvalid(f"{file.path}: the bytes from {chunk.at} on are not what the layer's TOC says")
        if held:
            yield held


def frames(toc: bytes, end: int, inflate: Inflate) -> Frames:
    """What the digests of a TOC say about each frame; arguments as of ``TocIndex``. Raises IndexInvalid.

    Knows no files, and is therefore had sooner than an index.
    """
    entries = _entries(toc)
    stops = _frames(entries, end)
    found: dict[int, list[Content]] = {}
    size = 0
    for entry, after in zip_longest(entries, entries[1:]):
        if entry.type != "chunk":
            size = entry.size
        if not _has_frame(entry):
            continue
        in_one = entry.type == "reg" and (after is None or after.type != "chunk")
        sha256 = _sha256(entry.chunk_digest or (entry.digest if in_one else ""))
        count = entry.chunk_size or size - entry.chunk_offset
        if count <= 0 or entry.inner_offset < 0:
            raise IndexInvalid("a TOC with a chunk of no length")
        if sha256:
            found.setdefault(entry.offset, []).append(Content(entry.inner_offset, count, sha256))
    return Frames({Span(start, stops[start]): contents for start, contents in found.items()}, inflate)


def _sha256(text: str) -> bytes:
    """The bytes of such a digest; none of another, or of none. Raises IndexInvalid."""
    digest = _digest(text)
    return bytes.fromhex(digest.hex) if digest is not None and digest.algorithm == "sha256" else b""


def _entries(toc: bytes) -> list[TocEntry]:
    try:
        parsed = decode(toc, _Toc)
    except Unreadable as error:
        raise IndexInvalid(f"not a TOC: {error}") from error
    if parsed.version != 1:
        raise IndexInvalid(f"a TOC of version {parsed.version}, not 1")
    return [entry for entry in parsed.entries if entry.type in _FILE_KINDS or entry.type == "chunk"]


def _frames(entries: Iterable[TocEntry], end: int) -> dict[int, int]:
    """Where each frame ends: where the next one begins, or before that if it says so (podman says of a file's first where the last
    one of the file ends)."""
    starts = {entry.offset for entry in entries if _has_frame(entry)}
    stops = dict(pairwise([*sorted(starts), end]))
    for entry in entries:
        if _has_frame(entry) and entry.end_offset:
            stops[entry.offset] = min(stops[entry.offset], entry.end_offset)
    if any(not 0 <= start <= stop <= end for start, stop in stops.items()):
        raise IndexInvalid("a TOC that points outside the layer")
    return stops


def _has_frame(entry: TocEntry) -> bool:
    return entry.type in {"reg", "chunk"} and entry.chunk_type != "zeros" and (entry.size > 0 or entry.type == "chunk")


def _grouped(
    entries: Iterable[TocEntry], frames: Mapping[int, int]
) -> Iterator[tuple[str, LayerFile, tuple[Chunk, ...]]]:
    """Each file with its parts: the entry itself is the first, the chunk entries behind it the others."""
    groups: list[list[TocEntry]] = []
    for entry in entries:
        if entry.type != "chunk":
            groups.append([entry])
        elif groups and groups[-1][0].type == "reg":
            groups[-1].append(entry)
        else:
            raise IndexInvalid("a TOC with a chunk that belongs to no file")
    for group in groups:
        path = normal_path(group[0].name)
        link = group[0].link_name
        kind = group[0].type
        file = LayerFile(path, kind, group[0].size, normal_path(link) if kind == "hardlink" else link)
        yield path, file, tuple(_parts(path, group, frames))


def _parts(path: str, group: list[TocEntry], frames: Mapping[int, int]) -> Iterator[Chunk]:
    """The chunks of a regular file, which must fill it without gap or overlap."""
    size, at = group[0].size, 0
    if group[0].type != "reg" or not size:
        return
    for entry in group:
        count = entry.chunk_size or size - entry.chunk_offset
        if entry.chunk_offset != at or count <= 0 or at + count > size or entry.inner_offset < 0:
            raise IndexInvalid(f"{path}: a TOC whose chunks do not fill the file")
        span = Span(entry.offset, frames[entry.offset]) if _has_frame(entry) else None
        digest = entry.chunk_digest or (entry.digest if len(group) == 1 else "")
        yield Chunk(at, count, span, entry.inner_offset, _digest(digest))
        at += count
    if at != size:
        raise IndexInvalid(f"{path}: a TOC whose chunks do not fill the file")


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text) if text else None
    except DigestInvalid as error:
        raise IndexInvalid(f"a TOC with a malformed digest: {error}") from error


def _zeros(count: int) -> Iterator[bytes]:
    while count:
        piece = bytes(min(count, _PIECE))
        count -= len(piece)
        yield piece
