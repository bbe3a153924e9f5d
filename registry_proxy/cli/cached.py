"""Which files of an image are in the store, by looking at its directory: as ``verify`` does, beside whoever runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from registry_proxy.cli.verify import chunk_size_of
from registry_proxy.errors import StoreUnusable
from registry_proxy.oci.content import Descriptor
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Grid

if TYPE_CHECKING:  # the formats are imported when a verb runs
    from registry_proxy.lazy.files import LayerIndex

Share = Literal["all", "part", "none"]
"""How much is here of the bytes that a file is read from; ``all`` of a file without any."""


@dataclass(frozen=True, slots=True)
class CachedLayer:
    """What of a layer was in the store: ``chunks`` of its grid."""

    grid: Grid
    chunks: frozenset[int]

    def share(self, index: "LayerIndex", path: str) -> Share | None:
        """Of the file at this path of the layer; None for what has no contents, such as a directory or a broken hard link."""
        from registry_proxy.lazy.failures import FileUnknown, IndexInvalid
        from registry_proxy.lazy.files import regular_file

        try:
            spans = index.spans(regular_file(index, path))
        except (FileUnknown, IndexInvalid):
            return None
        wanted = {chunk for span in spans for chunk in self.grid.touched(span)}
        if wanted <= self.chunks:
            return "all"
        return "part" if wanted & self.chunks else "none"


def cached_layer(store: Path, layer: Descriptor) -> CachedLayer | None:
    """What the store at this path has of a layer now; None if there is no store that we may read."""
    from registry_proxy.tiers.layout import GROUP, GroupKey, Layout, parse_group_name
    from registry_proxy.tiers.walk import entries, look_at_group

    try:
        grid = Grid(layer.size, chunk_size_of(store))
    except StoreUnusable:
        return None
    layout, digest = Layout(store), Digest.parse(layer.digest)
    numbers = (parse_group_name(entry.name) for entry in entries(Path(layout.blob(digest))))
    groups = [look_at_group(layout, GroupKey(digest, number)) for number in numbers if number is not None]
    chunks = {group.key.number * GROUP + bit for group in groups for bit in range(GROUP) if group.mask >> bit & 1}
    return CachedLayer(grid, frozenset(chunks))
