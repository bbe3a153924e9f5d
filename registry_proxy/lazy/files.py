"""Which files of a layer lie in a span of its bytes, and which spans a file needs: one face for all formats that can tell.

An index is a value in memory; it never fetches. Whoever reads a file brings ``read``, which gives the layer's bytes of a span: from
the store, over HTTP, from a file. Every byte given back has been checked against the index's digests, where it has them.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from registry_proxy.lazy.failures import FileUnknown, IndexInvalid
from registry_proxy.plan.chunks import Span

Read = Callable[[Span], bytes]
"""The bytes of a span of the layer as it is stored (compressed), exactly as many as the span has."""


@dataclass(frozen=True, slots=True)
class LayerFile:
    """``path``: without leading ``./`` or ``/`` and trailing ``/``, non-UTF-8 bytes as surrogates; ``kind``: reg, dir, symlink,
    hardlink, char, block, fifo; ``size``: bytes of contents; ``link``: the target, a hard link's in the form of a path."""

    path: str
    kind: str
    size: int
    link: str = ""


class LayerIndex(Protocol):
    """What is known about one layer."""

    @property
    def format(self) -> str:
        """``ztoc``, ``estargz`` or ``zstd:chunked``."""

    @property
    def size(self) -> int:
        """Bytes of the layer as it is stored."""

    @property
    def files(self) -> Mapping[str, LayerFile]:
        """By path; where a layer has a path twice, the last one, as in the tar."""

    def spans(self, file: LayerFile) -> tuple[Span, ...]:
        """The bytes of the layer that must be had to read the file, in order, not touching each other."""

    def covered(self, span: Span) -> tuple[LayerFile, ...]:
        """The files with contents in these bytes of the layer."""

    def content(self, file: LayerFile, read: Read) -> Iterator[bytes]:
        """The file's contents piece by piece; raises IndexInvalid if they are not what the index says."""


def normal_path(name: bytes | str) -> str:
    """A tar's name as a path: ``./usr//bin/`` is ``usr/bin``."""
    text = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
    return "/".join(part for part in text.split("/") if part not in {"", "."})


def regular_file(index: LayerIndex, path: str) -> LayerFile:
    """The regular file at a path, through hard links; raises FileUnknown, or IndexInvalid if links run in a circle."""
    seen: set[str] = set()
    here = normal_path(path)
    while here not in seen:
        seen.add(here)
        file = index.files.get(here)
        if file is None or file.kind not in {"reg", "hardlink"}:
            raise FileUnknown(f"{here}: {'no such file' if file is None else f'a {file.kind}, not a regular file'}")
        if file.kind == "reg":
            return file
        here = file.link
    raise IndexInvalid(f"{path}: hard links run in a circle")


@dataclass(frozen=True, slots=True)
class Extent:
    """Contents of a file that lie in ``[start, stop)`` of some line of bytes (the layer, or its tar)."""

    start: int
    stop: int
    file: LayerFile


class Extents:
    """Extents by place. They may touch and share a place, as files in one compressed frame do."""

    def __init__(self, extents: Iterable[Extent]) -> None:
        self._extents = sorted(extents, key=lambda extent: (extent.start, extent.stop))
        self._starts = [extent.start for extent in self._extents]
        self._reach: list[int] = []  # how far the extents up to this one reach
        for extent in self._extents:
            self._reach.append(max(extent.stop, self._reach[-1] if self._reach else 0))

    def within(self, start: int, stop: int) -> tuple[LayerFile, ...]:
        """The files with a byte in ``[start, stop)``, each once, by place."""
        first = bisect_right(self._reach, start)
        last = bisect_right(self._starts, stop - 1)
        found = (extent.file for extent in self._extents[first:last] if extent.stop > start)
        return tuple({file.path: file for file in found}.values())


def joined(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The spans in order, those that touch or overlap made one, empty ones left out."""
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.start <= found[-1].stop:
            found[-1] = Span(found[-1].start, max(found[-1].stop, span.stop))
        elif len(span):
            found.append(span)
    return tuple(found)


def read_exactly(read: Read, span: Span) -> bytes:
    """The span's bytes; raises IndexInvalid if ``read`` gives another number of them."""
    data = read(span)
    if len(data) != len(span):
        raise IndexInvalid(f"{len(data)} bytes came where {len(span)} were asked for")
    return data
