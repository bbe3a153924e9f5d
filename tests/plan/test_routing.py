"""Paths and upstreams: what a request asks for, and of whom."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry_proxy.errors import BadRequest, ManifestUnknown, NameInvalid, NoSuchEndpoint, UnknownUpstream
from registry_proxy.oci import names
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.plan.routing import (
    Asked,
    BlobRoute,
    CatalogRoute,
    ManifestRoute,
    Ping,
    ReferrersRoute,
    Route,
    TagsRoute,
    Target,
    catalog_host,
    parse,
    query_values,
    split,
    target,
)

DIGEST = Digest("sha256", "0123456789abcdef" * 4)
HUB, OTHER, PORT = SourceHost("docker.io"), SourceHost("registry.test"), SourceHost("localhost:5001")
HOSTS = {HUB, OTHER, PORT}


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v2", Ping()),
        ("/v2/", Ping()),
        ("/v2/a/manifests/latest", ManifestRoute("a", names.Tag("latest"))),
        (f"/v2/a/b/c/manifests/{DIGEST}", ManifestRoute("a/b/c", DIGEST)),
        (f"/v2/a/blobs/{DIGEST}", BlobRoute("a", DIGEST)),
        (f"/v2/a/blobs/sha256%3A{DIGEST.hex}", BlobRoute("a", DIGEST)),
        (f"/v2/a/referrers/{DIGEST}", ReferrersRoute("a", DIGEST)),
        ("/v2/a/tags/list", TagsRoute("a")),
        ("/v2/a/tags/manifests/list", ManifestRoute("a/tags", names.Tag("list"))),
        (f"/v2/blobs/manifests/blobs/{DIGEST}", BlobRoute("blobs/manifests", DIGEST)),
        ("/v2/_catalog", CatalogRoute("")),
        ("/v2/registry.test/_catalog", CatalogRoute("registry.test")),
    ],
)
def test_paths(path: str, route: Route) -> None:
    """Every path of the API's read side; repositories may be named like its keywords."""
    assert parse(path) == route


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/",
        "/v2x",
        "/v2/a",
        "/v2/a/",
        "/v2/a/tags/list/",
        "/v2/a/tags/lists",
        "/v2/a/blobs/uploads/",
        "/v2/a/other/b",
    ],
)
def test_what_the_api_does_not_have(path: str) -> None:
    """Other paths are nothing."""
    with pytest.raises(NoSuchEndpoint):
        parse(path)


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        ("library/alpine", Asked(ns="docker.io"), Target(HUB, Repository("library/alpine"))),
        ("library/alpine", Asked(ns="registry-1.docker.io"), Target(HUB, Repository("library/alpine"))),
        ("library/alpine", Asked(ns="index.docker.io"), Target(HUB, Repository("library/alpine"))),
        ("alpine", Asked(ns="docker.io"), Target(HUB, Repository("library/alpine"))),
        ("a/b", Asked(ns="REGISTRY.test"), Target(OTHER, Repository("a/b"))),
        ("a", Asked(ns="localhost:5001"), Target(PORT, Repository("a"))),
        ("a", Asked(ns="registry.test", header="docker.io", listener=HUB), Target(OTHER, Repository("a"))),
        ("a", Asked(header="registry.test", listener=HUB), Target(OTHER, Repository("a"))),
        ("a", Asked(listener=OTHER), Target(OTHER, Repository("a"))),
        ("registry.test/a/b", Asked(), Target(OTHER, Repository("a/b"))),
        ("localhost:5001/a", Asked(), Target(PORT, Repository("a"))),
        ("docker.io/alpine", Asked(), Target(HUB, Repository("library/alpine"))),
        ("index.docker.io/a/b", Asked(), Target(HUB, Repository("a/b"))),
        ("docker.io/a/b", Asked(ns="docker.io"), Target(HUB, Repository("a/b"))),  # podman 6: a prefix *and* ns
        ("docker.io/a/b", Asked(ns="registry.test"), Target(OTHER, Repository("docker.io/a/b"))),
        ("docker.io/a/b", Asked(listener=OTHER), Target(OTHER, Repository("docker.io/a/b"))),
        ("library/alpine", Asked(), Target(HUB, Repository("library/alpine"), guessed=True)),
        ("alpine", Asked(), Target(HUB, Repository("library/alpine"), guessed=True)),
        ("registry.test", Asked(), None),
    ],
)
def test_who_is_asked(name: str, asked: Asked, expected: Target | None) -> None:
    """``ns``, then the header, then the listener, then the path's first component, then Docker Hub."""
    hosts = HOSTS if expected else {OTHER}
    assert target(name, asked, hosts) == expected


@pytest.mark.parametrize(
    ("name", "asked"),
    [("a", Asked(ns="evil.example")), ("a", Asked(header="169.254.169.254")), ("evil.example/a", Asked()),
     ("localhost/a", Asked()), ("10.0.0.1:80/a", Asked())],
)  # fmt: skip
def test_the_map_is_closed(name: str, asked: Asked) -> None:
    """A host that is not configured is never dialled, however it is named."""
    with pytest.raises(UnknownUpstream):
        target(name, asked, HOSTS)


@pytest.mark.parametrize(
    ("name", "asked"),
    [("a%2fb", Asked(ns="registry.test")), ("../b", Asked()), ("a//b", Asked()), ("A", Asked()), ("a/B", Asked()),
     ("/a", Asked()), ("a", Asked(ns="a b")), ("a", Asked(ns="http://registry.test")), ("docker.io/a%00", Asked()),
     ("docker.io/", Asked()), ("a:b/c", Asked(listener=OTHER))],
)  # fmt: skip
def test_malformed_names(name: str, asked: Asked) -> None:
    """Escapes, dots, NUL, upper case and empty components are no names, and a URL is no host."""
    with pytest.raises(NameInvalid):
        target(name, asked, HOSTS)


def test_catalog_hosts() -> None:
    """The catalog's upstream comes from the path or as everywhere; unnamed it is nobody's."""
    assert catalog_host(CatalogRoute("registry.test"), Asked(), HOSTS) == OTHER
    assert catalog_host(CatalogRoute(""), Asked(ns="registry.test"), HOSTS) == OTHER
    assert catalog_host(CatalogRoute(""), Asked(), HOSTS) is None
    with pytest.raises(UnknownUpstream):
        catalog_host(CatalogRoute("evil.example"), Asked(), HOSTS)


@given(
    st.text(st.sampled_from("/v2abA.%_:-~\x00é"), max_size=40).map(lambda tail: "/v2/" + tail) | st.text(), st.text()
)
@example("/v2/a/../../etc/passwd/manifests/latest", "")
@example("/v2/%2e%2e/manifests/latest", "docker.io")
def test_any_path_is_a_clean_name_or_our_error(path: str, ns: str) -> None:
    """Whatever is asked, what reaches an upstream is a checked repository of a configured host; all else is our own error."""
    try:
        clean, query = split(path)
        route = parse(clean)
        query_values(query)
        if isinstance(route, Ping | CatalogRoute):
            return
        found = target(route.name, Asked(ns=ns), HOSTS)
    except (BadRequest, NoSuchEndpoint, UnknownUpstream, ManifestUnknown):
        return
    assert found is not None
    assert found.upstream in HOSTS
    assert names.repository(found.repository) == found.repository


@pytest.mark.parametrize(
    ("raw", "expected"),
    [("/v2/?ns=a", ("/v2/", "ns=a")), ("http://h:1/v2/a?b?c", ("/v2/a", "b?c")), ("HTTPS://h", ("/", ""))],
)
def test_request_targets(raw: str, expected: tuple[str, str]) -> None:
    """Origin form and absolute form."""
    assert split(raw) == expected


@pytest.mark.parametrize("raw", ["*", "h:443", "ftp://h/v2/", ""])
def test_other_request_targets(raw: str) -> None:
    """Other forms are no paths."""
    with pytest.raises(BadRequest):
        split(raw)


def test_queries() -> None:
    """Values are decoded, the first of a repeated key counts, and a key without a value is empty."""
    assert query_values("ns=a%3A1&last=x+y&ns=b&n") == {"ns": "a:1", "last": "x y", "n": ""}
    assert query_values("") == {}
