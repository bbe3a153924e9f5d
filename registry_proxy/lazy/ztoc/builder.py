"""A zTOC made in one pass over a gzip layer, wherever its bytes come from.

Memory: the inflater's buffer (under 1 MiB), the points (32 KiB per span of uncompressed data) and the entries: ``Bounds.index`` at most.
"""

from typing import Final, Self

from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.ztoc.bounds import DEFAULT, Bounds
from registry_proxy.lazy.ztoc.header import Entry
from registry_proxy.lazy.ztoc.points import PointFinder
from registry_proxy.lazy.ztoc.tar import TarScanner
from registry_proxy.lazy.ztoc.ztoc import Ztoc
from registry_proxy.oci.digest import Digest

SPAN_SIZE: Final = 4 << 20
"""Bytes of uncompressed data per span: the reference tool's default."""

TOOL: Final = "AWS SOCI CLI v0.2"
"""What the reference tool calls itself in every zTOC; with another name the bytes would not be the same."""

_ENTRY_COST: Final = 400
"""Bytes of memory that an entry takes beside its texts, about."""


class ZtocBuilder:
    """Feed it the layer from its first byte to its last, then finish; close it in any case (``with``). Not thread-safe."""

    def __init__(self, span_size: int = SPAN_SIZE, bounds: Bounds = DEFAULT, tool: str = TOOL) -> None:
        self._tool = tool
        self._bounds = bounds
        self._entries: list[Entry] = []
        self._entries_size = 0
        self._tar = TarScanner(bounds.layer, self._keep)
        self._points = PointFinder(span_size, bounds, self._tar.feed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the layer; raises LayerRefused, after which the builder is of no more use."""
        if not self._points.taken:
            _check_magic(data)
        self._points.feed(data)
        self._bounds.check_index(self._points.size + self._entries_size)

    def finish(self) -> Ztoc:
        """The zTOC; raises LayerRefused if the layer is cut short or its hard links run in a circle."""
        packed, digests = self._points.finish()
        self._tar.finish()
        check_links({entry.name: entry.link for entry in self._entries if entry.kind == "hardlink"})
        return Ztoc(
            tool=self._tool,
            compressed=self._points.taken,
            uncompressed=self._tar.position,
            entries=tuple(self._entries),
            digests=tuple(Digest("sha256", digest) for digest in digests),
            points=packed,
        )

    def close(self) -> None:
        """Free what zlib holds."""
        self._points.close()

    def _keep(self, entry: Entry) -> None:
        texts = len(entry.name) + len(entry.link) + sum(len(key) + len(value) for key, value in entry.records)
        self._entries_size += texts + _ENTRY_COST
        self._bounds.check_index(self._points.size + self._entries_size)
        self._entries.append(entry)


def _check_magic(data: bytes) -> None:
    """A kind word for layers of other formats, which the reference tool does not index either."""
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        raise LayerRefused("a zstd layer has no zTOC: the format knows gzip only")
    if data[:1] not in (b"\x1f", b""):
        raise LayerRefused("not a gzip layer: a zTOC can be made for gzip only")


def check_links(links: dict[bytes, bytes]) -> None:
    """Raises LayerRefused if following hard links (name → target) comes back to where it was."""
    sound: set[bytes] = set()
    for start in links:
        name, path = start, set[bytes]()
        while name in links and name not in sound:
            if name in path:
                raise LayerRefused(f"hard links run in a circle: {name[:200]!r}")
            path.add(name)
            name = links[name]
        sound |= path
