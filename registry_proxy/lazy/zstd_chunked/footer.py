"""Where a zstd:chunked layer keeps its TOC, by its annotations or its footer, in the two dialects.

containers/storage: a footer of 64 bytes, magic ``GNUlInUx``, annotations ``io.github.containers.zstd-chunked.*``; its client reads the
annotations only. stargz: 40 bytes, ``GnUlInUx``, ``io.containers.zstd-chunked.*``. Either footer stands in a skippable frame whose
header comes just before it. The checksum is that of the *compressed* TOC in both.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from registry_proxy.errors import DigestInvalid
from registry_proxy.oci.digest import Digest

LONGEST: Final = 64
"""Bytes from the end of a layer that hold any of the footers."""

_PREFIXES: Final = ("io.github.containers.zstd-chunked.", "io.containers.zstd-chunked.")
ANNOTATIONS: Final = tuple(
    f"{prefix}{name}" for prefix in _PREFIXES for name in ("manifest-position", "manifest-checksum")
)
"""Those that lead to a TOC."""

_CRFS: Final = 1
"""The only type of TOC there is."""

_POSITION: Final = re.compile(r"([0-9]{1,18}):([0-9]{1,18}):([0-9]{1,18}):([0-9]{1,3})\Z")
_STORAGE: Final = struct.Struct("<7Q8s")
_STARGZ: Final = struct.Struct("<4Q8s")


@dataclass(frozen=True, slots=True)
class Position:
    """Of the compressed TOC: its first byte and length; ``raw``: its length uncompressed; ``checksum``: if it is known."""

    offset: int
    length: int
    raw: int
    checksum: Digest | None = None


def of_annotations(annotations: Mapping[str, str]) -> Position | None:
    """What a layer's descriptor says, or None if it says nothing (or nonsense) about a TOC."""
    for prefix in _PREFIXES:
        found = _POSITION.match(annotations.get(f"{prefix}manifest-position", ""))
        if found is None or int(found[4]) != _CRFS:
            continue
        try:
            checksum = Digest.parse(annotations.get(f"{prefix}manifest-checksum", ""))
        except DigestInvalid:
            checksum = None
        return Position(int(found[1]), int(found[2]), int(found[3]), checksum)
    return None


def of_footer(tail: bytes) -> Position | None:
    """What the layer's last bytes say, or None if they are no footer."""
    for form, magic in ((_STORAGE, b"GNUlInUx"), (_STARGZ, b"GnUlInUx")):
        if len(tail) >= form.size:
            offset, length, raw, kind, *_, found = form.unpack(tail[-form.size :])
            if found == magic and kind == _CRFS:
                return Position(offset, length, raw)
    return None
