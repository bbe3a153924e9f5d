"""The last bytes of an eStargz layer (stargz-snapshotter docs/estargz.md, "Footer").

An empty gzip member whose extra field says where the TOC begins. Three forms: today's of 51 bytes, CRFS's of 47 (the field lacks its
RFC 1952 subfield header), and one of 46 bytes for a TOC that is kept elsewhere.
"""

import re
from dataclasses import dataclass
from typing import Final

LONGEST: Final = 51
"""Bytes from the end of a layer that hold any of the footers."""

TOC_DIGEST: Final = "containerd.io/snapshot/stargz/toc.digest"
"""Annotation of a layer: the sha-256 of its uncompressed TOC."""

_HEAD: Final = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff"
_TAIL: Final = b"\x01\0\0\xff\xff" + bytes(8)
_CURRENT: Final = re.compile(re.escape(_HEAD + b"\x1a\0SG\x16\0") + rb"([0-9a-f]{16})STARGZ" + re.escape(_TAIL))
_LEGACY: Final = re.compile(re.escape(_HEAD + b"\x16\0") + rb"([0-9a-f]{16})STARGZ" + re.escape(_TAIL))
_EXTERNAL: Final = _HEAD + b"\x15\0SG\x11\0STARGZEXTERNALTOC" + _TAIL


@dataclass(frozen=True, slots=True)
class Footer:
    """``length``: of the footer, bytes; ``toc``: where the TOC's member begins, None if the TOC is kept elsewhere."""

    length: int
    toc: int | None


def parse(tail: bytes) -> Footer | None:
    """The footer at the end of these bytes, or None if there is none."""
    for length, form in ((51, _CURRENT), (47, _LEGACY)):
        if found := form.fullmatch(tail[-length:]):
            return Footer(length, int(found[1], 16))
    if tail.endswith(_EXTERNAL):
        return Footer(len(_EXTERNAL), None)
    return None


def encode(toc: int) -> bytes:
    """Today's footer, for a TOC whose member begins at this byte."""
    return b"%b\x1a\0SG\x16\0%016xSTARGZ%b" % (_HEAD, toc, _TAIL)
