"""``registry-proxy stats``: what a running instance has done."""

from collections.abc import Iterator, Mapping

import msgspec

from registry_proxy.cli.http import Instance, InstanceRefused
from registry_proxy.cli.options import NO_FLAGS, Ca, Json, Server, Setup, server_url
from registry_proxy.cli.output import print_json, print_table
from registry_proxy.config.units import size_text

_LIMIT = 16 << 20
"""Bytes of a /stats answer."""


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
        print_table(instance.url, ("figure", "value"), rows(figures))


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
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if "bytes" in name or name in ("limit", "promised"):
        return size_text(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}"
