import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.errors import UpstreamBroken
from registry_proxy.plan.origins import Origin, Reach, reach, redirect_target
from registry_proxy.plan.realms import check_realm

HTTPS = Origin("https", "registry.example.org", 443)
HTTP = Origin("http", "registry.example.org", 80)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("169.254.169.254", Reach.FORBIDDEN),
        ("fe80::1", Reach.FORBIDDEN),
        ("fe80::1%eth0", Reach.FORBIDDEN),
        ("::ffff:169.254.169.254", Reach.FORBIDDEN),
        ("64:ff9b::a9fe:a9fe", Reach.FORBIDDEN),
        ("fd00:ec2::254", Reach.FORBIDDEN),
        ("100.100.100.200", Reach.FORBIDDEN),
        ("0.0.0.0", Reach.FORBIDDEN),
        ("224.0.0.1", Reach.FORBIDDEN),
        ("127.0.0.1", Reach.PRIVATE),
        ("::1", Reach.PRIVATE),
        ("10.1.2.3", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("::ffff:10.0.0.1", Reach.PRIVATE),
        ("8.8.8.8", Reach.PUBLIC),
        ("2606:4700::1111", Reach.PUBLIC),
    ],
)
def test_reach(address: str, expected: Reach) -> None:
    """Each kind of address is recognised, also when it hides in an IPv6 one."""
    assert reach(address) is expected


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/other?x=1#part", "https://registry.example.org/other?x=1"),
        ("https://cdn.example.net/b?sig=a%2Fb", "https://cdn.example.net/b?sig=a%2Fb"),
        ("//cdn.example.net/b", "https://cdn.example.net/b"),
    ],
)
def test_redirects_are_joined(location: str, expected: str) -> None:
    """A Location may be relative, and a signature in it stays as it was written."""
    assert redirect_target(HTTPS, "https://registry.example.org/v2/", location, ()) == expected


@pytest.mark.parametrize(
    "location",
    [
        "http://cdn.example.net/b",
        "https://169.254.169.254/latest",
        "https://[fe80::1]/",
        "ftp://cdn.example.net/b",
        "file:///etc/passwd",
        "https://user:pass@cdn.example.net/",
        "https://good.example\\@bad.example/",
        "https://cdn.example.net:99999/",
        "https://[::1",
        "https://.:x/",
    ],
)
def test_refused_redirects(location: str) -> None:
    """A step down to http, forbidden addresses, other schemes, user info and ambiguous URLs are refused."""
    with pytest.raises(UpstreamBroken):
        redirect_target(HTTPS, "https://registry.example.org/v2/", location, ())


def test_http_upstream_may_redirect_to_http() -> None:
    """Where the upstream itself is http there is nothing to step down from."""
    assert redirect_target(HTTP, "http://registry.example.org/", "http://cdn.example.net/b", ())


def test_listed_redirect_hosts() -> None:
    """With redirect_hosts configured, only hosts it lists and the upstream's own are followed."""
    patterns = ("*.storage.example",)
    for allowed in (
        "https://a.storage.example/x",
        "https://A.Storage.Example/x",
        "https://registry.example.org:8443/x",
    ):
        assert redirect_target(HTTPS, "https://registry.example.org/", allowed, patterns)
    with pytest.raises(UpstreamBroken):
        redirect_target(HTTPS, "https://registry.example.org/", "https://cdn.example.net/x", patterns)


@pytest.mark.parametrize(
    ("upstream", "realm", "patterns"),
    [
        ("https://registry-1.docker.io", "https://auth.docker.io/token", ()),
        ("https://gitlab.example", "https://gitlab.example/jwt/auth", ()),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token", ()),
        ("http://registry.example", "https://registry.example/token", ()),
        ("https://registry.example.co.uk", "https://auth.example.co.uk/token", ()),
        ("https://registry.example", "https://login.other.test/token", ("login.other.*",)),
    ],
)
def test_realms_that_may_see_our_credentials(upstream: str, realm: str, patterns: tuple[str, ...]) -> None:
    """The same host, the same domain and listed hosts may be the token realm."""
    assert check_realm(Origin.of(upstream), realm, patterns) == Origin.of(realm)


@pytest.mark.parametrize(
    ("upstream", "realm"),
    [
        ("https://registry.example", "https://evil.test/token"),
        ("https://registry.example", "http://registry.example/token"),
        ("https://registry.example", "https://registry.example.evil.test/token"),
        ("https://registry.example", "https://registry.example@evil.test/token"),
        ("http://127.0.0.1:5000", "http://10.1.0.1/token"),
        ("http://127.0.0.1:5000", "http://127.0.0.2:5000/token"),
        ("http://localhost", "http://evil.localhost/token"),
        ("https://registry.example.co.uk", "https://evil.co.uk/token"),
        ("https://mine.github.io", "https://evil.github.io/token"),
        ("https://registry.farm", "https://evil.farm/token"),
        ("https://registry.example", "not a url"),
    ],
)
def test_realms_that_may_not(upstream: str, realm: str) -> None:
    """Other domains, other IP addresses and a step down to http never see our credentials."""
    with pytest.raises(UpstreamBroken):
        check_realm(Origin.of(upstream), realm, ())


@given(st.text(max_size=60) | st.builds("https://{}".format, st.text(max_size=40)))
def test_any_location_is_joined_or_refused(location: str) -> None:
    """No Location whatever raises anything but UpstreamBroken, and what is accepted parses as an origin."""
    try:
        target = redirect_target(HTTPS, "https://registry.example.org/v2/", location, ())
    except UpstreamBroken:
        return
    assert Origin.of(target).scheme == "https"
