"""The eStargz copy of one layer."""

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final

from registry_proxy.lazy.convert import names
from registry_proxy.lazy.convert.aside import Aside
from registry_proxy.lazy.convert.image import is_layer
from registry_proxy.lazy.convert.names import Names, Twice, clean
from registry_proxy.lazy.convert.order import arranged
from registry_proxy.lazy.convert.packer import Packer
from registry_proxy.lazy.convert.source import Source
from registry_proxy.lazy.convert.tar import Item, Piece, TarReader, plain_file
from registry_proxy.lazy.convert.toc import TocWriter
from registry_proxy.lazy.convert.values import ConvertedLayer, Options
from registry_proxy.lazy.failures import LayerRefused

DEFAULTS: Final = Options()
_LANDMARK: Final = b"\x0f"
_BUFFER: Final = 1 << 20


def convert_layer(
    source: BinaryIO,
    media_type: str,
    out: Path,
    *,
    options: Options = DEFAULTS,
    progress: Callable[[int], None] | None = None,
) -> ConvertedLayer:
    """Write the eStargz copy of the layer that ``source`` gives to ``out``, which appears whole or not at all.

    ``source``: the layer as it is stored, from its first byte; gzip, zstd or a plain tar, told by its bytes. It is read once, or
    ``seek(0)`` and read again if files must change places; it is not closed. ``media_type``: of its descriptor. ``progress`` is called
    now and then with the bytes of the source taken so far, from 0 again if it is read again; an exception from it ends the conversion
    and leaves nothing.
    Blocks, and starts ``options.threads`` threads that end with it. Raises LayerRefused for a layer that cannot be converted: broken,
    hostile, encrypted, or of a form that eStargz cannot say; OSError where ``out`` cannot be written.
    """
    if not is_layer(media_type):
        raise LayerRefused(f"not a layer that can be converted: {media_type[:200]!r}")
    conversion = _Conversion(source, out, options, progress)
    if not options.prioritized:
        try:
            return conversion.in_place()
        except Twice:
            source.seek(0)
    return conversion.rearranged()


class _Conversion:
    def __init__(self, source: BinaryIO, out: Path, options: Options, progress: Callable[[int], None] | None) -> None:
        self._file = source
        self._out = out
        self._options = options
        self._progress = progress

    def in_place(self) -> ConvertedLayer:
        """One pass over the layer, its entries in their order; raises Twice if that cannot be right."""
        source, reader = self._opened()
        seen = Names(self._options.bounds)
        with self._packing(source) as packer:
            packer.add(*_landmark(names.NO_PREFETCH))
            while item := reader.next():
                name = clean(item.entry.name)
                if name not in names.OF_THE_FORMAT:
                    seen.add(name, item.entry)
                    packer.add(item, reader.content())
            self._check_end(source, reader)
            seen.finish()
            return packer.finish()

    def rearranged(self) -> ConvertedLayer:
        """Two passes: the whole tar is put aside, and read again in the order of the copy."""
        source, reader = self._opened()
        seen = Names(self._options.bounds)
        with Aside(self._out.parent, self._options.bounds) as aside:
            aside.keep(reader, self._ticker(source))
            self._check_end(source, reader)
            first, rest = arranged(aside.kept, self._options.prioritized)
            mark = names.PREFETCH if self._options.prioritized else names.NO_PREFETCH
            with self._packing(source) as packer:
                for item, content in chain(map(aside.give, first), [_landmark(mark)], map(aside.give, rest)):
                    seen.add(clean(item.entry.name), item.entry)
                    packer.add(item, content)
                seen.finish()
                return packer.finish()

    def _opened(self) -> tuple[Source, TarReader]:
        source = Source(self._file, self._options.bounds, self._progress)
        return source, TarReader(source.pieces(), self._options.bounds)

    @contextmanager
    def _packing(self, source: Source) -> Iterator[Packer]:
        """A packer that writes to what becomes ``out`` in the end; if anything fails, nothing is left of it."""
        pool = ThreadPoolExecutor(self._options.threads, "convert")
        try:
            with _appearing(self._out) as file, TocWriter(self._out.parent) as toc:
                yield Packer(file, toc, pool, self._options, self._ticker(source))
        finally:
            pool.shutdown(cancel_futures=True)

    def _ticker(self, source: Source) -> Callable[[int], None]:
        """What is to be done now and then: bounds hold for what is written too, since sparse files grow there."""

        def tick(written: int) -> None:
            self._options.bounds.check(source.taken, written)
            if self._progress is not None:
                self._progress(source.taken)

        return tick

    def _check_end(self, source: Source, reader: TarReader) -> None:
        if not source.end_is_told and not reader.ended:
            raise LayerRefused("the layer's tar has no end: it may be cut short")


def _landmark(name: str) -> tuple[Item, Iterator[Piece]]:
    return plain_file(name, len(_LANDMARK)), iter([_LANDMARK])


@contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name once it is whole and on the disk."""
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb", _BUFFER) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
