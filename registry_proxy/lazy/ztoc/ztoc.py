"""A zTOC as a value, and as bytes (SOCI's ztoc.fbs, version 0.9)."""

from dataclasses import dataclass
from typing import Final

from registry_proxy.errors import DigestInvalid
from registry_proxy.lazy.failures import IndexInvalid
from registry_proxy.lazy.frames import Content, Frames
from registry_proxy.lazy.ztoc.flatbuffer import Buffer, Field, Table, Writer
from registry_proxy.lazy.ztoc.header import Entry
from registry_proxy.lazy.ztoc.inflate import WINDOW
from registry_proxy.lazy.ztoc.points import HEADER, POINT
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span

VERSION: Final = "0.9"
MEDIA_TYPE: Final = "application/octet-stream"
_GZIP: Final = 1


@dataclass(frozen=True, slots=True)
class Ztoc:
    """``compressed``, ``uncompressed``: bytes of the layer; ``entries``: in the order of the tar; ``digests``: sha-256 of each
    span; ``points``: as the format packs them (see ``Point``)."""

    tool: str
    compressed: int
    uncompressed: int
    entries: tuple[Entry, ...]
    digests: tuple[Digest, ...]
    points: bytes


@dataclass(frozen=True, slots=True)
class Point:
    """A place to start from: compressed and uncompressed bytes before it, bits of the last byte that belong to it."""

    compressed: int
    uncompressed: int
    bits: int

    @property
    def start(self) -> int:
        """The first byte that must be had to start here."""
        return self.compressed - (1 if self.bits else 0)


def encode(ztoc: Ztoc) -> bytes:
    """The bytes that the reference builder writes for this value: what is written when decides where it stands."""
    out = Writer()
    version, tool = out.string(VERSION.encode()), out.string(ztoc.tool.encode())
    files = [_file(out, entry) for entry in reversed(ztoc.entries)]
    toc = out.table([(0, "o", out.offsets(files[::-1]), 0)])
    points = out.octets(ztoc.points)
    digests = out.offsets([out.string(str(digest).encode()) for digest in ztoc.digests])
    info = out.table(
        [(1, "i", len(ztoc.digests) - 1, 0), (2, "o", digests, 0), (3, "o", points, 0), (0, "b", _GZIP, _GZIP)]
    )
    root: list[Field] = [
        (0, "o", version, 0),
        (1, "o", tool, 0),
        (4, "o", toc, 0),
        (2, "q", ztoc.compressed, 0),
        (3, "q", ztoc.uncompressed, 0),
        (5, "o", info, 0),
    ]
    return out.finish(out.table(root))


def _file(out: Writer, entry: Entry) -> int:
    string = out.string
    name, kind, link = string(entry.name), string(entry.kind.encode()), string(entry.link)
    owner, group, modified = string(entry.owner), string(entry.group), string(entry.modified)
    records = out.offsets([_record(out, key, value) for key, value in entry.records])
    return out.table(
        (
            (0, "o", name, 0),
            (1, "o", kind, 0),
            (2, "q", entry.offset, 0),
            (3, "q", entry.size, 0),
            (4, "o", link, 0),
            (5, "q", entry.mode, 0),
            (6, "I", entry.uid & 0xFFFFFFFF, 0),
            (7, "I", entry.gid & 0xFFFFFFFF, 0),
            (8, "o", owner, 0),
            (9, "o", group, 0),
            (10, "o", modified, 0),
            (11, "q", entry.major, 0),
            (12, "q", entry.minor, 0),
            (13, "o", records, 0),
        )
    )


def _record(out: Writer, key: bytes, value: bytes) -> int:
    name, text = out.string(key), out.string(value)
    return out.table([(0, "o", name, 0), (1, "o", text, 0)])


def parse(data: bytes, *, files: bool = True) -> Ztoc:
    """A zTOC from its bytes, or what it says of the layer without its files; raises IndexInvalid for anything that is none or that
    contradicts itself."""
    root = Buffer(data).root()
    if root.octets(0) != VERSION.encode():
        raise IndexInvalid(f"a zTOC of version {root.octets(0)[:20]!r}, not {VERSION}")
    info = root.table(5)
    if info.number(0, "b", _GZIP) != _GZIP:
        raise IndexInvalid("a zTOC of a layer that is not gzip")
    ztoc = Ztoc(
        tool=root.octets(1).decode("utf-8", "replace"),
        compressed=root.number(2, "q"),
        uncompressed=root.number(3, "q"),
        entries=tuple(sorted(map(_entry, root.table(4).tables(0)), key=lambda entry: entry.offset)) if files else (),
        digests=tuple(_digest(text) for text in info.strings(2)),
        points=info.octets(3),
    )
    _check(ztoc, info.number(1, "i"))
    return ztoc


def _digest(text: bytes) -> Digest:
    try:
        return Digest.parse(text.decode("ascii", "replace"))
    except DigestInvalid as error:
        raise IndexInvalid(f"a zTOC with a malformed digest: {error}") from error


def _entry(table: Table) -> Entry:
    return Entry(
        name=table.octets(0),
        kind=table.octets(1).decode("ascii", "replace"),
        offset=table.number(2, "q"),
        size=table.number(3, "q"),
        link=table.octets(4),
        mode=table.number(5, "q"),
        uid=table.number(6, "I"),
        gid=table.number(7, "I"),
        owner=table.octets(8),
        group=table.octets(9),
        modified=table.octets(10),
        major=table.number(11, "q"),
        minor=table.number(12, "q"),
        records=tuple((record.octets(0), record.octets(1)) for record in table.tables(13)),
    )


def _check(ztoc: Ztoc, last_span: int) -> None:
    """Spans count up, files do not overlap, and nothing lies outside the layer."""
    found = points(ztoc)
    if len(ztoc.digests) != len(found) or last_span != len(found) - 1:
        raise IndexInvalid("a zTOC whose spans, points and hashes are not of one number")
    before = Point(0, 0, 0)
    for point in found:
        ordered = before.compressed <= point.start and before.uncompressed <= point.uncompressed
        if not ordered or point.compressed > ztoc.compressed or point.bits > 7:
            raise IndexInvalid("a zTOC whose points are out of order or outside the layer")
        before = point
    end = 0
    for entry in ztoc.entries:
        if entry.size < 0 or entry.offset < end:
            raise IndexInvalid("a zTOC whose files overlap")
        end = entry.offset + entry.size
    if end > ztoc.uncompressed:
        raise IndexInvalid("a zTOC with a file beyond the layer's end")


def points(ztoc: Ztoc) -> tuple[Point, ...]:
    """All points; raises IndexInvalid.

    An old dialect leaves the first point out (a gzip header of ten bytes is taken for granted); the length tells them apart.
    """
    if len(ztoc.points) < HEADER.size:
        raise IndexInvalid("a zTOC without points")
    count, _ = HEADER.unpack_from(ztoc.points)
    stored, rest = divmod(len(ztoc.points) - HEADER.size, POINT.size)
    if rest or count < 1 or stored not in (count, count - 1):
        raise IndexInvalid("a zTOC whose points are not as many as it says")
    first = () if stored == count else (Point(10, 0, 0),)
    packed = memoryview(ztoc.points)[HEADER.size :]
    return first + tuple(Point(*POINT.unpack_from(packed, i * POINT.size)[:3]) for i in range(stored))


def spans(ztoc: Ztoc) -> tuple[Span, ...]:
    """The bytes of the layer that each of its digests is of."""
    found = points(ztoc)
    stops = (*(point.compressed for point in found[1:]), ztoc.compressed)
    return tuple(Span(point.start, stop) for point, stop in zip(found, stops, strict=True))


def frames(ztoc: Ztoc) -> Frames:
    """What the digests say about each of the spans."""
    sums = zip(spans(ztoc), ztoc.digests, strict=True)
    return Frames(
        {
            span: [Content(0, len(span), bytes.fromhex(digest.hex))]
            for span, digest in sums
            if digest.algorithm == "sha256" and len(span)
        },
        None,
    )


def window(ztoc: Ztoc, index: int) -> bytes:
    """The 32 KiB before a point."""
    count, _ = HEADER.unpack_from(ztoc.points)
    stored = (len(ztoc.points) - HEADER.size) // POINT.size
    at = index - (count - stored)
    if at < 0:
        return bytes(WINDOW)
    end = HEADER.size + (at + 1) * POINT.size
    return ztoc.points[end - WINDOW : end]
