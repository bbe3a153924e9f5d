"""The eStargz copy of one layer."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from registry_proxy.lazy.convert.values import ConvertedLayer, Options

DEFAULTS: Final = Options()


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
    now and then with the bytes of the source taken so far; an exception from it ends the conversion and leaves nothing.
    Blocks, and starts ``options.threads`` threads that end with it. Raises LayerRefused for a layer that cannot be converted: broken,
    hostile, encrypted, or of a form that eStargz cannot say; OSError where ``out`` cannot be written.
    """
    raise NotImplementedError
