"""A layer's tar kept aside in a temporary file, for copies whose entries change places."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from registry_proxy.lazy.convert import headers
from registry_proxy.lazy.convert.names import OF_THE_FORMAT, clean
from registry_proxy.lazy.convert.order import Kept, Step
from registry_proxy.lazy.convert.tar import Item, Piece, TarReader
from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.ztoc.bounds import Bounds
from registry_proxy.lazy.ztoc.header import BLOCK

_PIECE: Final = 1 << 20
_COST: Final = 400
"""Bytes of memory that an entry takes beside its names, about."""


class Aside:
    """Takes all entries of a layer, then gives any of them. The file has no name and is gone when this is closed."""

    def __init__(self, directory: Path, bounds: Bounds) -> None:
        self._bounds = bounds
        self._file = tempfile.TemporaryFile(dir=directory, buffering=_PIECE)  # noqa: SIM115  (closed by __exit__)
        self.kept: list[Kept] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def keep(self, reader: TarReader, tick: Callable[[int], None]) -> None:
        """Take the entries that are left; ``tick`` is told the bytes kept so far. Raises LayerRefused."""
        at = cost = 0
        while item := reader.next():
            name = clean(item.entry.name)
            if name in OF_THE_FORMAT:
                continue
            start, at = at, at + self._file.write(item.blocks)
            for piece in reader.content():
                at += self._file.write(piece)
                tick(at)
            at += self._file.write(bytes(-at % BLOCK))
            self.kept.append(Kept(name, item.entry.kind, clean(item.entry.link), start, at))
            cost += len(name) + len(item.entry.link) + _COST
            self._bounds.check_index(cost)
        self._file.flush()

    def give(self, step: Step) -> tuple[Item, Iterator[Piece]]:
        """An entry, called and linked as the step says."""
        kept = self.kept[step.number]
        reader = TarReader(self._pieces(kept), self._bounds)
        item = reader.next()
        if item is None:
            raise LayerRefused("the layer's tar, kept aside, is no longer there")
        entry = item.entry
        if step.name is not None:
            entry = msgspec.structs.replace(entry, name=step.name)
        if step.link is not None and clean(entry.link) != step.link:
            entry = msgspec.structs.replace(entry, link=step.link)
        return item if entry is item.entry else Item(entry, headers.written(entry)), reader.content()

    def _pieces(self, kept: Kept) -> Iterator[bytes]:
        at = kept.start
        while at < kept.stop and (piece := os.pread(self._file.fileno(), min(kept.stop - at, _PIECE), at)):
            at += len(piece)
            yield piece
