"""What a client that has to log in is told: where, and for what (RFC 9110 §11.6.1, distribution's "Token Authentication")."""

import re
from typing import Final

from registry_proxy.errors import LoginNeeded, RegistryProxyError
from registry_proxy.plan import routing
from registry_proxy.plan.routing import Ping
from registry_proxy.web.exchange import Exchange

TOKENS: Final = "/token/"
"""Where the token realms of guarded upstreams are: one below this for each source host."""

_HOST: Final = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?\Z|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?\Z")
_QUOTED: Final = re.compile(r'["\\]')


def challenge(exchange: Exchange, error: LoginNeeded) -> str:
    """The value of WWW-Authenticate: Basic, or Bearer with this proxy's own token realm and the name as the client spelled it."""
    if error.basic is not None:
        return f'Basic realm="{_quoted(error.basic)}"'
    realm = f"{_base(exchange)}{TOKENS}{exchange.upstream}"
    service = f',service="{_quoted(error.service)}"' if error.service else ""
    name = _name(exchange)
    scope = f',scope="repository:{name}:pull"' if name else ""
    return f'Bearer realm="{realm}"{service}{scope}'


def _base(exchange: Exchange) -> str:
    """Where the client reaches this proxy, as it says itself."""
    secure = exchange.request.transport is not None and exchange.request.transport.get_extra_info("sslcontext")
    host = exchange.request.headers.get("Host", "")
    return f"{'https' if secure else 'http'}://{host if _HOST.match(host) else 'localhost'}"


def _name(exchange: Exchange) -> str:
    try:
        route = routing.parse(exchange.path)
    except RegistryProxyError:
        return ""
    return "" if isinstance(route, Ping) else route.name


def _quoted(text: str) -> str:
    return _QUOTED.sub(r"\\\g<0>", text)
