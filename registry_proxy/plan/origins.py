"""Where a request may go: origins of URLs, and redirects from an upstream.

An upstream is only half trusted. It may send us to its storage, but not into the network we live in.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from urllib.parse import urljoin

from registry_proxy.errors import UpstreamBroken

_URL = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(?:[/?][!-~]*)?\Z", re.IGNORECASE)
_METADATA = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "fd00:ec2::254")))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Reach(Enum):
    """Who can be met at an address."""

    PUBLIC = "public"
    PRIVATE = "private"
    FORBIDDEN = "forbidden"


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host (lower case, IPv6 without brackets) and port: what credentials are bound to (RFC 6454 §4)."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Origin":
        """The origin of an absolute http or https URL without user info.

        Raises UpstreamBroken for anything else, and for any URL that two parsers could read differently.
        """
        match = _URL.match(url)
        if match is None or (match[3] and int(match[3]) > 65535):
            raise UpstreamBroken(f"not a usable URL: {url.partition('?')[0][:160]!r}")
        scheme = match[1].lower()
        return cls(scheme, match[2].lower().strip("[]"), int(match[3] or (443 if scheme == "https" else 80)))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def reach(address: str) -> Reach:
    """Who can be met at this IP address.

    FORBIDDEN are addresses that are never the place of a registry's content: link-local (cloud metadata lives there), the
    metadata addresses elsewhere, multicast, unspecified.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ipaddress.ip_address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        if inner is not None:
            return reach(str(inner))
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in _METADATA:
        return Reach.FORBIDDEN
    return Reach.PUBLIC if ip.is_global else Reach.PRIVATE


def literal_reach(host: str) -> Reach | None:
    """``reach`` of a host that is an IP address; None for a name."""
    try:
        return reach(host)
    except ValueError:
        return None


def redirect_target(upstream: Origin, base: str, location: str, patterns: Iterable[str]) -> str:
    """The absolute URL that an upstream's answer at ``base`` redirects to.

    ``patterns``: hosts it may name (none: any). Raises UpstreamBroken for other hosts, for a step down from https to http
    unless the upstream itself is http, and for an address that is FORBIDDEN. What a name resolves to is checked later, on connecting.
    """
    target = _joined(base, location)
    origin = Origin.of(target)
    if origin.scheme == "http" and upstream.scheme == "https":
        raise UpstreamBroken(f"{upstream} redirects from https to {origin}")
    wanted = tuple(patterns)
    if wanted and origin.host != upstream.host and not matches(origin.host, wanted):
        raise UpstreamBroken(f"{upstream} redirects to {origin}, which redirect_hosts does not list")
    if origin.host != upstream.host and literal_reach(origin.host) is Reach.FORBIDDEN:
        raise UpstreamBroken(f"{upstream} redirects to the forbidden address {origin}")
    return target


def matches(host: str, patterns: Iterable[str]) -> bool:
    """True if a host (lower case) matches one of these fnmatch patterns."""
    return any(fnmatchcase(host, pattern.lower()) for pattern in patterns)


def _joined(base: str, location: str) -> str:
    try:
        return urljoin(base, location.strip()).partition("#")[0]
    except ValueError as error:
        raise UpstreamBroken(f"malformed Location: {location[:160]!r}") from error
