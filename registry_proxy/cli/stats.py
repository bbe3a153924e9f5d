"""``registry-proxy stats``: what a running instance has done."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from registry_proxy.cli.http import Instance
from registry_proxy.cli.options import NO_FLAGS, Ca, Json, Server, Setup, server_url
from registry_proxy.cli.output import print_json, print_table
from registry_proxy.config.units import size_text

_ASKED: Final = {
    "name": "name", "state": "state", "hit": "hits", "miss": "misses", "failure": "failures", "bytes": "bytes", "seconds": "time",
}  # fmt: skip

_TABLES: Final[dict[str, dict[str, str]]] = {
    "served": {"name": "from", "bytes": "bytes", "share": "share"},
    "tiers": _ASKED,
    "sources": _ASKED,
    "upstreams": {"name": "name", "bytes": "bytes", "rangeless": "without ranges", "rate_limit": "pulls left"},
    "processes": {"name": "process", "pid": "pid", "restarts": "restarts", "since": "running for"},
}
"""What is a table of its own: its columns, by the figures' names."""


def stats(*, server: Server = None, ca: Ca = None, json: Json = False, setup: Setup = NO_FLAGS) -> None:
    """Show the figures of a running instance.

    For example:

    - `registry-proxy stats`
    - `registry-proxy stats --server http://cache.example:5000 --json`
    """
    instance = Instance(server_url(server, setup.load()), timeout=10.0, ca=ca)
    figures = instance.figures()
    if json:
        print_json(figures)
    else:
        _show(instance.url, figures)


def _show(url: str, figures: Mapping[str, object]) -> None:
    """What comes in lists as tables of their own; the others as one long table, without what ``lazy status`` shows."""
    others = dict(figures)
    if isinstance(lazy := others.get("lazy"), Mapping):
        others["lazy"] = {name: value for name, value in lazy.items() if name != "jobs"}
    for kind, columns in _TABLES.items():
        if found := _records(others.pop(kind, None)):
            print_table(kind, tuple(columns.values()), (_line(one, columns) for one in found))
            print()
            others[kind] = {str(one["name"]): {key: one[key] for key in one if key not in columns} for one in found}
    print_table(url, ("figure", "value"), rows(others))


def _records(value: object) -> list[Mapping[str, object]]:
    """Figures that have a name each, whether they come as a list or by their names."""
    if isinstance(value, Mapping):
        value = [{"name": name, **one} for name, one in value.items() if isinstance(one, Mapping)]
    return [one for one in value if isinstance(one, Mapping) and "name" in one] if isinstance(value, list) else []


def _line(figures: Mapping[str, object], columns: Iterable[str]) -> tuple[str, ...]:
    return tuple("" if figures.get(name) is None else _text(name, figures[name]) for name in columns)


def rows(figures: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested figures as lines for a person: dotted names, sizes with units."""
    for name, value in figures.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from rows(value, f"{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            yield from rows({str(number): item for number, item in enumerate(value)}, f"{key}.")
        elif isinstance(value, list):
            yield key, ", ".join(str(item) for item in value) or "none"
        else:
            yield key, _text(name, value)


def _text(name: str, value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):  # what a registry said of its limit
        return f"{value.get('remaining')} of {value.get('limit')}"
    if name == "pid" or not isinstance(value, int | float):
        return str(value)
    if name == "share":
        return f"{value:.1%}"
    if name == "since":
        return f"{value:,.0f} s"
    if name == "seconds":
        return f"{value * 1000:,.3g} ms"
    if "bytes" in name or name in ("limit", "promised", "chunk_size"):
        return size_text(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"
