"""In which order the entries of a layer stand in its copy. Pure.

The last entry of a name counts, as in a tar that is unpacked; what a profile names comes first, with its directories and the files that its
hard links need. A hard link whose file was replaced later in the layer inherits what it linked to, as it would when unpacked.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from registry_proxy.lazy.convert.names import clean
from registry_proxy.lazy.failures import LayerRefused


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry that is kept aside: its clean name, its kind, the clean name that it links to, its place in the file aside."""

    name: bytes
    kind: str
    link: bytes
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Step:
    """The number of the entry that comes next; ``name``, ``link``: what it is to be called and linked to, None for as it is."""

    number: int
    name: bytes | None = None
    link: bytes | None = None


def arranged(kept: Sequence[Kept], prioritized: Sequence[str]) -> tuple[list[Step], list[Step]]:
    """The prioritized entries, and the others; raises LayerRefused for a hard link without a file before it."""
    steps = {step.name or kept[step.number].name: step for step in _living(kept)}
    links = {name: _link(kept, step) for name, step in steps.items()}
    first: dict[bytes, Step] = {}
    for path in prioritized:
        name = clean(path.encode("utf-8", "surrogateescape"))
        if name in steps:
            for needed in _needed(name, links):
                if needed in steps:
                    first.setdefault(needed, steps[needed])
    return list(first.values()), [step for name, step in steps.items() if name not in first]


def _living(kept: Sequence[Kept]) -> Iterator[Step]:
    """What is there once all has been unpacked."""
    names: dict[bytes, int] = {}
    targets: dict[int, int] = {}  # of hard links: the entry with the contents
    for number, entry in enumerate(kept):
        if entry.kind == "hardlink":
            targets[number] = _target(kept, names, targets, entry)
        names[entry.name] = number
    living = set(names.values())
    heirs: dict[int, bytes] = {}
    for number in sorted(living):
        target = targets.get(number)
        if target is None:
            yield Step(number)
        elif target in living:
            yield Step(number, link=kept[target].name)
        elif target in heirs:
            yield Step(number, link=heirs[target])
        else:
            heirs[target] = kept[number].name
            yield Step(target, name=kept[number].name)


def _target(kept: Sequence[Kept], names: Mapping[bytes, int], targets: Mapping[int, int], link: Kept) -> int:
    found = names.get(link.link)
    if found is None or kept[found].kind == "dir":
        raise LayerRefused(f"{link.name[:200]!r} is a hard link to {link.link[:200]!r}, which is no file before it")
    return targets.get(found, found)


def _link(kept: Sequence[Kept], step: Step) -> bytes | None:
    return step.link if kept[step.number].kind == "hardlink" else None


def _needed(name: bytes, links: Mapping[bytes, bytes | None]) -> Iterator[bytes]:
    """The names that must be there before this one, and itself: directories, and the file of a hard link with its own."""
    link = links[name]
    if link is not None:
        yield from _needed(link, links)
    parts = name.split(b"/")
    yield b""
    for count in range(1, len(parts) + 1):
        yield b"/".join(parts[:count])
