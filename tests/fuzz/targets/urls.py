"""URLs that an upstream names: what is checked is what is dialled. Three lines: the base, `Location`, a pattern."""

import contextlib

from yarl import URL

from registry_proxy.errors import UpstreamBroken
from registry_proxy.plan.origins import Origin, Reach, literal_reach, redirect_target
from tests.fuzz.text import fields

UPSTREAM = Origin.of("https://registry.example.org")


def run(data: bytes) -> None:
    """aiohttp's own reading of an accepted URL has the same host and port as ours, and no address that is forbidden."""
    base, location, pattern = fields(data, 3)
    with contextlib.suppress(UpstreamBroken):
        same_reading(base)
    with contextlib.suppress(UpstreamBroken):
        target = redirect_target(
            UPSTREAM, "https://registry.example.org/v2/a/blobs/b", location, (pattern,) if pattern else ()
        )
        origin = same_reading(target)
        assert origin.scheme == "https"
        assert literal_reach(origin.host) is not Reach.FORBIDDEN


def same_reading(text: str) -> Origin:
    """The origin of a URL; raises UpstreamBroken. What `net.client` would dial is compared."""
    origin = Origin.of(text)
    try:
        url = URL(text, encoded=True)
    except ValueError:  # refused by `net.client` too
        raise UpstreamBroken(text) from None
    assert (url.scheme, url.port, url.user) == (origin.scheme, origin.port, None)
    assert url.raw_host is not None
    assert url.raw_host.lower() == origin.host
    return origin
