"""Which instances a request has passed, so that instances that are each other's parents find out (RFC 9110 §7.6.3, ``Via``).

A flight inherits the context of the request that starts it, and with it the instances that its own requests must name.
"""

import secrets
from contextvars import ContextVar
from typing import Final

from registry_proxy.plan.chunk_objects import via_names

HOPS: Final[ContextVar[tuple[str, ...]]] = ContextVar("hops", default=())
"""The instances that the request being answered has passed, first to last."""

_PREFIX = "registry-proxy-"
_MOST = 16


def new_identity() -> str:
    """A name for an instance in ``Via``."""
    return _PREFIX + secrets.token_hex(6)


def instances(via: str) -> tuple[str, ...]:
    """The instances that a Via header names."""
    return tuple(name for name in via_names(via) if name.startswith(_PREFIX))[-_MOST:]


def via(identity: str) -> str:
    """The Via header of a request of this instance's own."""
    return ", ".join(f"1.1 {name}" for name in (*HOPS.get(), identity))
