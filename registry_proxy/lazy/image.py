"""The files of an image, seen through all its layers at once (image-spec "layer.md": whiteouts, replaced directories)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from registry_proxy.lazy.failures import FileUnknown
from registry_proxy.lazy.files import LayerFile, LayerIndex, normal_path

_OPAQUE: Final = ".wh..wh..opq"
_WHITEOUT: Final = ".wh."
_OF_THE_FORMAT: Final = frozenset({".prefetch.landmark", ".no.prefetch.landmark", "stargz.index.json"})
_MOST_LINKS: Final = 40
"""Symbolic links followed for one path, as in Linux."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file, and the number of the layer that it comes from (the lowest is 0)."""

    layer: int
    file: LayerFile


def merged(layers: Iterable[LayerIndex]) -> dict[str, Place]:
    """What a container sees, by path; ``layers`` from the lowest to the highest."""
    seen: dict[str, Place] = {}
    for number, layer in enumerate(layers):
        gone, emptied = _whiteouts(layer.files)
        seen = {path: place for path, place in seen.items() if path not in gone and not _below(path, gone | emptied)}
        seen.update((path, Place(number, file)) for path, file in layer.files.items() if not _is_mark(path))
    return seen


def find(seen: Mapping[str, Place], path: str) -> Place:
    """The file at a path, through symbolic links; raises FileUnknown."""
    here = normal_path(path)
    for _ in range(_MOST_LINKS):
        parts = here.split("/")
        heads = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
        link = next((head for head in heads if head in seen and seen[head].file.kind == "symlink"), None)
        if link is None:
            if here not in seen:
                raise FileUnknown(f"{path}: no such file in the image")
            return seen[here]
        here = _resolved(link, seen[link].file.link, here[len(link) + 1 :])
    raise FileUnknown(f"{path}: too many symbolic links")


def _resolved(link: str, target: str, rest: str) -> str:
    """The path that a symbolic link leads to; ``..`` never leaves the image."""
    parts = [] if target.startswith("/") else link.split("/")[:-1]
    for part in (*normal_path(target).split("/"), *rest.split("/")):
        if part == "..":
            parts = parts[:-1]
        elif part:
            parts.append(part)
    return "/".join(parts)


def _whiteouts(files: Mapping[str, LayerFile]) -> tuple[set[str], set[str]]:
    """Paths that are gone with all below them, and directories whose former contents are gone."""
    gone: set[str] = set()
    emptied: set[str] = set()
    for path, file in files.items():
        folder, _, name = path.rpartition("/")
        if name == _OPAQUE:
            emptied.add(folder)
        elif name.startswith(_WHITEOUT):
            gone.add(f"{folder}/{name[len(_WHITEOUT) :]}".lstrip("/"))
        elif file.kind != "dir":
            emptied.add(path)  # a file in the place of a directory
    return gone, emptied


def _below(path: str, folders: set[str]) -> bool:
    """True if the path lies in one of these folders; the folder "" is the root."""
    while path:
        path = path.rpartition("/")[0]
        if path in folders:
            return True
    return False


def _is_mark(path: str) -> bool:
    return path.rpartition("/")[2].startswith(_WHITEOUT) or path in _OF_THE_FORMAT
