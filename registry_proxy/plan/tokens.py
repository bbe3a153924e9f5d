"""What can be read in tokens, and in requests for them (distribution's "Token Authentication"). Pure."""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import parse_qs

import msgspec

from registry_proxy.errors import RegistryProxyError
from registry_proxy.oci.foreign import Unreadable, decode
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.plan import routing
from registry_proxy.plan.routing import Asked

_SCOPE: Final = re.compile(r"repository:(.+):([a-z,*]+)\Z")
_MOST_SCOPES: Final = 16
_LONGEST_ACCOUNT: Final = 256


class _Claims(msgspec.Struct):
    exp: float | None = None


def expiry(authorization: str | None) -> float | None:
    """When the bearer token in a header ends, in seconds since the epoch, if it is a JWT that says so (RFC 7519 §4.1.4).

    Nothing is verified: who shows a token with a wrong end harms nobody but himself.
    """
    scheme, _, token = (authorization or "").partition(" ")
    parts = token.strip().split(".")
    if scheme.lower() != "bearer" or len(parts) != 3:
        return None
    try:
        claims = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return decode(claims, _Claims).exp
    except (binascii.Error, ValueError, Unreadable):
        return None


def pulls(query: str, host: SourceHost) -> list[Repository]:
    """The repositories of ``host`` that a request for a token asks to pull from, without the host that clients put in front.

    Whatever else is asked for is left out: other actions, other kinds of things, malformed names.
    """
    scopes = (scope for value in parse_qs(query).get("scope", ()) for scope in value.split(" "))
    return list(dict.fromkeys(_repositories(scopes, host)))[:_MOST_SCOPES]


def account(query: str) -> str:
    """The account name that a request for a token mentions; empty if there is none that is one."""
    name = parse_qs(query).get("account", [""])[0]
    return name if len(name) <= _LONGEST_ACCOUNT and name.isprintable() else ""


def _repositories(scopes: Iterable[str], host: SourceHost) -> Iterator[Repository]:
    for scope in scopes:
        match = _SCOPE.match(scope)
        if match is None or not {"pull", "*"} & set(match[2].split(",")):
            continue
        try:
            target = routing.target(match[1], Asked(listener=host), (host,))
        except RegistryProxyError:
            continue
        if target is not None:
            yield target.repository
