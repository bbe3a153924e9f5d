"""Request targets: path and query to a route, a chunk object, a page, an upstream. Two lines: the target, and `OCI-Namespace`."""

import contextlib
import re

from registry_proxy.errors import RegistryProxyError
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan import paging, routing
from registry_proxy.plan.chunk_objects import ChunkName
from registry_proxy.plan.routing import Asked, CatalogRoute, Ping
from tests.fuzz.text import fields

HOSTS = frozenset(map(SourceHost, ("docker.io", "registry.example:5000", "ghcr.io")))
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z")


def run(data: bytes) -> None:
    """Whatever is asked for, only configured upstreams are meant, and only names of the specification's grammar."""
    target, namespace = fields(data, 2)
    read(target, namespace or None)


def read(target: str, namespace: str | None) -> None:
    """Everything that is read of a request target."""
    with contextlib.suppress(RegistryProxyError):
        path, query = routing.split(target)
        values = routing.query_values(query)
        with contextlib.suppress(RegistryProxyError):
            name = ChunkName.parse(path)
            assert ChunkName.parse(name.path) == name
        with contextlib.suppress(RegistryProxyError):
            page = paging.page(values)
            assert page.n is None or 0 <= page.n <= paging.MAX_PAGE
            link = paging.next_link(path, values, "name")
            assert "\n" not in link.removeprefix(f"<{path}")
        _route(path, Asked(values.get("ns"), namespace))


def _route(path: str, asked: Asked) -> None:
    route = routing.parse(path)
    if isinstance(route, Ping):
        return
    if isinstance(route, CatalogRoute):
        host = routing.catalog_host(route, asked, HOSTS)
        assert host is None or host in HOSTS
        return
    found = routing.target(route.name, asked, HOSTS)
    assert found is not None
    assert found.upstream in HOSTS
    assert _NAME.match(found.repository)
    assert len(found.repository) <= 255
