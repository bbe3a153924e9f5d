"""``registry-proxy stats``: what a running instance has done."""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from registry_proxy.cli.http import Instance, InstanceRefused
from registry_proxy.cli.options import NO_FLAGS, Ca, Json, Server, Setup, server_url
from registry_proxy.cli.output import print_json, print_table
from registry_proxy.config.units import size_text

_LIMIT = 16 << 20
"""Bytes of a /stats answer."""

_PLACES: Final = ("tiers", "sources")

_COLUMNS: Final = {
    "name": "name", "state": "state", "hit": "hits", "miss": "misses", "failure": "failures", "bytes": "bytes", "seconds": "time",
}  # fmt: skip


def stats(*, server: Server = None, ca: Ca = None, json: Json = False, setup: Setup = NO_FLAGS) -> None:
    """Show the figures of a running instance.

    For example:

    - `registry-proxy stats`
    - `registry-proxy stats --server http://cache.example:5000 --json`
    """
    instance = Instance(server_url(server, setup.load()), timeout=10.0, ca=ca)
    body = instance.get("/stats", {}, _LIMIT)
    try:
        figures = msgspec.json.decode(body, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise InstanceRefused(f"{instance.url}/stats: not an instance of this program: {error}") from error
    if json:
        print_json(figures)
    else:
        _show(instance.url, figures)


def _show(url: str, figures: Mapping[str, object]) -> None:
    """Tiers and sources as tables of their own, one line each; the others as one long table, without what ``lazy status`` shows."""
    others = {name: value for name, value in figures.items() if name not in _PLACES}
    if isinstance(lazy := others.get("lazy"), Mapping):
        others["lazy"] = {name: value for name, value in lazy.items() if name != "jobs"}
    for kind in _PLACES:
        places = [one for one in _listed(figures.get(kind)) if "name" in one]
        others[kind] = {str(one["name"]): {key: one[key] for key in one if key not in _COLUMNS} for one in places}
        if places:
            print_table(kind, tuple(_COLUMNS.values()), (place(one) for one in places))
            print()
    print_table(url, ("figure", "value"), rows(others))


def place(figures: Mapping[str, object]) -> tuple[str, ...]:
    """The line of one tier or source."""
    return tuple(_text(name, figures.get(name)) for name in _COLUMNS)


def _listed(value: object) -> list[Mapping[str, object]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


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
    if name == "seconds" and isinstance(value, float):
        return f"{value * 1000:,.3g} ms"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if "bytes" in name or name in ("limit", "promised"):
        return size_text(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"
