"""From the raw path of a request to what is asked for, and from which upstream.

Paths are never decoded: a name that needs an escape is no name (``%3A`` for the colon of a digest or port apart), so that ``%2f``,
``..`` and NUL fail the grammar of names instead of being repaired. Source hosts are keys into the configured map, never addresses.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus

from registry_proxy.errors import BadRequest, NameInvalid, NoSuchEndpoint, UnknownUpstream
from registry_proxy.oci import names
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Reference, Repository, SourceHost

HUB: Final = SourceHost("docker.io")
_HUB_NAMES: Final = frozenset({HUB, "index.docker.io", "registry-1.docker.io"})
"""Docker Hub's names: in images, of its old index, and of its API; clients send any of them as ``ns``."""


@dataclass(frozen=True, slots=True)
class Ping:
    """``/v2/``."""


@dataclass(frozen=True, slots=True)
class ManifestRoute:
    """``/v2/<name>/manifests/<reference>``. ``name``: as it stands in the path, perhaps with a source host in front."""

    name: str
    reference: Reference


@dataclass(frozen=True, slots=True)
class BlobRoute:
    """``/v2/<name>/blobs/<digest>``."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class TagsRoute:
    """``/v2/<name>/tags/list``."""

    name: str


@dataclass(frozen=True, slots=True)
class ReferrersRoute:
    """``/v2/<name>/referrers/<digest>``."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class CatalogRoute:
    """``/v2/_catalog`` or ``/v2/<source host>/_catalog``; ``name``: that host, or empty."""

    name: str


Route = Ping | ManifestRoute | BlobRoute | TagsRoute | ReferrersRoute | CatalogRoute


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says about where to look: ``ns``, the OCI-Namespace header, and the upstream of its listener."""

    ns: str | None = None
    header: str | None = None
    listener: SourceHost | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where to look. ``guessed``: the request names no upstream, this one is only the likeliest (Docker Hub's clients)."""

    upstream: SourceHost
    repository: Repository
    guessed: bool = False


def split(raw: str) -> tuple[str, str]:
    """Path and query of a request target in origin form or absolute form (RFC 9112 §3.2); raises BadRequest for others."""
    if not raw.isascii():
        raise BadRequest("a URL has no other characters than those of ASCII (RFC 3986 §2)")
    path, _, query = raw.partition("?")
    if path.startswith("/"):
        return path, query
    scheme, colon, rest = path.partition("://")
    if not colon or scheme.lower() not in ("http", "https"):
        raise BadRequest(f"not a path: {raw[:160]!r}")
    return "/" + rest.partition("/")[2], query


def query_values(query: str) -> dict[str, str]:
    """The decoded values of a query; of a key that comes twice the first one."""
    values: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        key, _, value = pair.partition("=")
        values.setdefault(unquote_plus(key), unquote_plus(value) if "%" in value or "+" in value else value)
    return values


def parse(path: str) -> Route:
    """The route of a raw path below ``/v2``.

    Raises NameInvalid, DigestInvalid or ManifestUnknown for malformed names, NoSuchEndpoint for what the API does not have.
    """
    if path in ("/v2", "/v2/"):
        return Ping()
    if not path.startswith("/v2/"):
        raise NoSuchEndpoint(f"nothing is at {path[:160]!r}")
    if "%" in path:
        path = path.replace("%3A", ":").replace("%3a", ":")
    head, _, last = path[4:].rpartition("/")
    if last == "_catalog":
        return CatalogRoute(head)
    name, _, kind = head.rpartition("/")
    match kind:
        case "blobs":
            return BlobRoute(_present(name), Digest.parse(last))
        case "manifests":
            return ManifestRoute(_present(name), names.reference(last))
        case "referrers":
            return ReferrersRoute(_present(name), Digest.parse(last))
        case "tags" if last == "list":
            return TagsRoute(_present(name))
    raise NoSuchEndpoint(f"nothing is at {path[:160]!r}")


def _present(name: str) -> str:
    if not name:
        raise NameInvalid("the path has no repository name")
    return name


def target(name: str, asked: Asked, hosts: Collection[SourceHost]) -> Target | None:
    """Which upstream of the configured ``hosts`` a repository name means, and the repository there.

    In order: ``ns``, the header, the listener's own upstream, the first component of the name, and else Docker Hub, whose
    clients name no host. A first component that repeats the upstream already chosen is a client's path prefix and goes too.
    A name that starts like a host (a dot, a port, ``localhost``: docker's own rule) is never one of Docker Hub's.
    None: nothing names an upstream and Docker Hub is not configured.
    Raises NameInvalid for a malformed repository or host, UnknownUpstream for a host that is not configured.
    """
    chosen = upstream(asked, hosts)
    first, slash, rest = name.partition("/")
    prefix = find(first, hosts) if slash else None
    if prefix is not None and chosen in (None, prefix):
        return Target(prefix, _repository(prefix, rest))
    if chosen is not None:
        return Target(chosen, _repository(chosen, name))
    if slash and (first == "localhost" or "." in first or ":" in first):
        raise UnknownUpstream(f"{names.source_host(first)} is not a configured upstream")
    hub = find(HUB, hosts)
    repository = _repository(hub or HUB, name)
    return Target(hub, repository, guessed=True) if hub else None


def upstream(asked: Asked, hosts: Collection[SourceHost]) -> SourceHost | None:
    """The upstream that a request names beside its path, or None; raises NameInvalid and UnknownUpstream."""
    text = asked.ns or asked.header
    if not text:
        return asked.listener
    host = find(text, hosts)
    if host is None:
        raise UnknownUpstream(f"{names.source_host(text)} is not a configured upstream")
    return host


def catalog_host(route: CatalogRoute, asked: Asked, hosts: Collection[SourceHost]) -> SourceHost | None:
    """The upstream whose repositories are asked for, or None where nothing names one; raises NameInvalid and UnknownUpstream."""
    beside = upstream(asked, hosts)
    chosen = find(route.name, hosts) if route.name else beside
    if route.name and chosen is None:
        raise UnknownUpstream(f"{names.source_host(route.name)} is not a configured upstream")
    return chosen


def find(text: str, hosts: Collection[SourceHost]) -> SourceHost | None:
    """The configured source host that this text names, or None. Host names have no case; Docker Hub has several names."""
    host = SourceHost(text.lower())
    if host in hosts:
        return host
    if host in _HUB_NAMES:
        return next((each for each in hosts if each in _HUB_NAMES), None)
    return None


def _repository(host: SourceHost, name: str) -> Repository:
    """The repository of this name; on Docker Hub a name of one component lives below ``library/`` (docker's own rule)."""
    checked = names.repository(name)
    return Repository(f"library/{checked}") if host in _HUB_NAMES and "/" not in checked else checked
