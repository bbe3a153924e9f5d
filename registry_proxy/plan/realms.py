"""The token realms that an upstream may name: a password goes to nobody but its own token server.

golang/vulndb#5094 is what happens otherwise. What belongs to one owner is what the public suffix list says: ``a.example.co.uk`` and
``b.example.co.uk`` do, ``example.co.uk`` and ``other.co.uk`` do not.
"""

from collections.abc import Iterable
from typing import Final

from publicsuffixlist import PublicSuffixList

from registry_proxy.errors import UpstreamBroken
from registry_proxy.plan.origins import Origin, literal_reach, matches

_SUFFIXES: Final = PublicSuffixList()


def check_realm(upstream: Origin, realm: str, patterns: Iterable[str]) -> Origin:
    """The origin of the token realm that an upstream names; raises UpstreamBroken unless it may see our credentials.

    It may on the upstream's own host, on a host of the same registrable domain, and on those that ``patterns`` lists; over https
    unless the upstream is http.
    """
    origin = Origin.of(realm)
    if origin.scheme == "http" and upstream.scheme == "https":
        raise UpstreamBroken(f"{upstream} names the token realm {origin}, which is not https")
    if origin.host == upstream.host or _same_domain(origin.host, upstream.host) or matches(origin.host, patterns):
        return origin
    raise UpstreamBroken(f"{upstream} names the token realm {origin} of another domain, which realms does not list")


def _same_domain(one: str, other: str) -> bool:
    if literal_reach(one) or literal_reach(other):
        return False
    domain = _SUFFIXES.privatesuffix(one.rstrip("."))
    return domain is not None and domain == _SUFFIXES.privatesuffix(other.rstrip("."))
