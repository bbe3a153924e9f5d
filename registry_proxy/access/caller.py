"""Who asks."""

from dataclasses import dataclass, field
from typing import Final

from registry_proxy.errors import BadRequest
from registry_proxy.plan.limits import client_of

_LONGEST: Final = 16 << 10
"""Characters of an Authorization header; tokens have two or three thousand."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A client as one request shows it.

    ``authorization``: the header as it came, which is never shown in a log; ``address``: its IP address, or "unix"; ``certificate``:
    the common name in a client certificate that TLS has verified.
    """

    authorization: str | None = field(repr=False)
    address: str
    certificate: str | None = None

    @property
    def client(self) -> str:
        """Who it counts as where no client may have more than its part."""
        return client_of(self.address) or "this machine"


def checked(authorization: str | None) -> str | None:
    """A header that can be passed on to an upstream; raises BadRequest."""
    if authorization is not None and not (
        len(authorization) <= _LONGEST and authorization.isascii() and authorization.isprintable()
    ):
        raise BadRequest("the Authorization header is none")
    return authorization
