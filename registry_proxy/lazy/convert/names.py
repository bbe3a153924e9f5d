"""The names of a layer's entries, and what about them makes a layer that no TOC can say right."""

import posixpath
from typing import Final

from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.ztoc.bounds import Bounds
from registry_proxy.lazy.ztoc.header import Entry

PREFETCH: Final = ".prefetch.landmark"
NO_PREFETCH: Final = ".no.prefetch.landmark"
TOC: Final = "stargz.index.json"
OF_THE_FORMAT: Final = frozenset(name.encode() for name in (PREFETCH, NO_PREFETCH, TOC))
"""Entries that a layer which was eStargz before already has; they are made anew."""

_COST: Final = 250
"""Bytes of memory that a name takes beside its text, about."""


class Twice(Exception):
    """A name came again: what the layer unpacks to is known at its end only."""


def clean(name: bytes) -> bytes:
    """The path below the root that a name in a tar means, as the reference reader sees it."""
    if name[:1] in b"/." or b"//" in name or b"/." in name:
        return posixpath.normpath(b"/" + name).lstrip(b"/")
    return name.rstrip(b"/")


class Names:
    """Every entry in turn, by its name."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._kinds: dict[bytes, str] = {}
        self._lossy: dict[str, bytes] = {}
        self._cost = 0

    def __len__(self) -> int:
        return len(self._kinds)

    def add(self, name: bytes, entry: Entry) -> None:
        """Take an entry by its clean name; raises Twice, or LayerRefused for a hard link without a file before it."""
        if name in self._kinds:
            raise Twice
        if entry.kind == "hardlink" and self._kinds.get(clean(entry.link), "dir") == "dir":
            raise LayerRefused(f"{name[:200]!r} is a hard link to {entry.link[:200]!r}, which is no file before it")
        if not name.isascii():
            self._check_text(name)
        self._kinds[name] = entry.kind
        self._cost += len(name) + _COST
        self._bounds.check_index(self._cost)

    def finish(self) -> None:
        """There are no more; raises LayerRefused if one lies below something else than a directory."""
        for name in self._kinds:
            parent = name.rpartition(b"/")[0]
            while parent and parent not in self._kinds:
                parent = parent.rpartition(b"/")[0]
            if parent and self._kinds[parent] != "dir":
                raise LayerRefused(f"{name[:200]!r} lies below a {self._kinds[parent]}")

    def _check_text(self, name: bytes) -> None:
        """A TOC's names are UTF-8, other bytes become U+FFFD: two names must not become one."""
        text = name.decode("utf-8", "replace")
        if self._lossy.setdefault(text, name) != name:
            raise LayerRefused(f"{name[:200]!r} cannot be told from another name of the layer in UTF-8")
        self._cost += 2 * len(name) + _COST
