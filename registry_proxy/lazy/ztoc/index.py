"""Reading files of a gzip layer through its zTOC."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from typing import Final

from registry_proxy.lazy.failures import IndexInvalid, LayerRefused
from registry_proxy.lazy.files import Extent, Extents, LayerFile, Read, joined, normal_path, read_exactly
from registry_proxy.lazy.ztoc.header import Entry
from registry_proxy.lazy.ztoc.inflate import GZIP, RAW, STREAM_END, WINDOW, Inflater
from registry_proxy.lazy.ztoc.ztoc import Ztoc, points, spans, window
from registry_proxy.plan.chunks import Span

_ROOM: Final = 1 << 18
_TRAILER: Final = 8
"""Bytes behind a gzip member's last block: checksum and length."""


class ZtocIndex:
    """A gzip layer and its zTOC (LayerIndex)."""

    format = "ztoc"

    def __init__(self, ztoc: Ztoc) -> None:
        """Raises IndexInvalid."""
        self._ztoc = ztoc
        self._points = points(ztoc)
        self._spans = spans(ztoc)
        self._outs = [point.uncompressed for point in self._points]
        self._entries = {normal_path(entry.name): entry for entry in ztoc.entries}
        self._files = {path: _file(path, entry) for path, entry in self._entries.items()}
        self._extents = Extents(
            Extent(entry.offset, entry.offset + entry.size, self._files[path])
            for path, entry in self._entries.items()
            if entry.size
        )

    @property
    def size(self) -> int:
        """Bytes of the layer as it is stored."""
        return self._ztoc.compressed

    @property
    def files(self) -> Mapping[str, LayerFile]:
        """By path."""
        return self._files

    def spans(self, file: LayerFile) -> tuple[Span, ...]:
        """One span, or none of an empty file."""
        return joined([self._span(number) for number in self._numbers(file)])

    def covered(self, span: Span) -> tuple[LayerFile, ...]:
        """The files with contents in the zTOC's spans that these bytes lie in."""
        if not len(span):
            return ()
        ins = [point.compressed for point in self._points]
        first = max(bisect_right(ins, span.start) - 1, 0)
        last = bisect_left(ins, span.stop)  # of this one at most the byte before it is meant
        stop = self._outs[last] if last < len(self._outs) else self._ztoc.uncompressed
        return self._extents.within(self._outs[first], stop)

    def content(self, file: LayerFile, read: Read) -> Iterator[bytes]:
        """The file's contents, each span read once and checked by its hash."""
        numbers = self._numbers(file)
        if not numbers:
            return
        skip = self._entries[file.path].offset - self._outs[numbers[0]]
        left = file.size
        for piece in self._inflated(numbers, read):
            part = piece[skip : skip + left]
            skip = max(skip - len(piece), 0)
            left -= len(part)
            if part:
                yield part
            if not left:
                return
        raise IndexInvalid(f"{file.path}: its spans hold less than the zTOC says")

    def _numbers(self, file: LayerFile) -> range:
        """The numbers of the spans that the file lies in."""
        if not file.size:
            return range(0)
        offset = self._entries[file.path].offset
        first = max(bisect_right(self._outs, offset) - 1, 0)
        return range(first, bisect_left(self._outs, offset + file.size))

    def _span(self, number: int) -> Span:
        return self._spans[number]

    def _checked(self, number: int, read: Read) -> bytes:
        data = read_exactly(read, self._span(number))
        if not self._ztoc.digests[number].matches(data):
            raise IndexInvalid(f"span {number} of the layer does not hash to what its zTOC says")
        return data

    def _inflated(self, numbers: range, read: Read) -> Iterator[bytes]:
        """The uncompressed bytes from the first of these spans' points on, in pieces of bounded size."""
        point, data = self._points[numbers[0]], self._checked(numbers[0], read)
        inflater = Inflater(RAW, _ROOM)
        try:
            inflater.start_in_the_middle(window(self._ztoc, numbers[0]), point.bits, data[0] if data else 0)
            members = _Members(inflater)
            yield from members.feed(data[1 if point.bits else 0 :])
            for number in numbers[1:]:
                data = self._checked(number, read)
                yield from members.feed(data[1 if self._points[number].bits else 0 :])
        except LayerRefused as error:
            raise IndexInvalid(f"the zTOC's points do not fit the layer: {error}") from error
        finally:
            inflater.close()


class _Members:
    """Inflates on from the middle of one gzip member, over its trailer, into those behind it."""

    def __init__(self, inflater: Inflater) -> None:
        self._inflater = inflater
        self._raw = True
        self._trailer = 0
        self._between = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        inflater = self._inflater
        data = self._over_trailer(data)
        inflater.take(data)
        while (inflater.left or inflater.full()) and not (self._between and not inflater.left):
            at = WINDOW if inflater.full() else inflater.at
            code = inflater.step()
            self._between = False
            if inflater.at > at:
                yield inflater.buffer[at : inflater.at].tobytes()
            if code == STREAM_END:
                self._next_member(data)

    def _next_member(self, data: bytes) -> None:
        inflater, self._between = self._inflater, True
        left = data[len(data) - inflater.left :] if inflater.left else b""
        self._trailer = _TRAILER if self._raw else 0
        self._raw = False
        inflater.restart(GZIP)
        inflater.take(self._over_trailer(left))

    def _over_trailer(self, data: bytes) -> bytes:
        skipped = min(self._trailer, len(data))
        self._trailer -= skipped
        return data[skipped:]


def _file(path: str, entry: Entry) -> LayerFile:
    link = entry.link.decode("utf-8", "surrogateescape")
    return LayerFile(path, entry.kind, entry.size, normal_path(link) if entry.kind == "hardlink" else link)
