"""Who asks."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Caller:
    """A client as one request shows it.

    ``authorization``: the header as it came, which is never shown in a log; ``address``: its IP address, or "unix"; ``certificate``:
    the common name in a client certificate that TLS has verified.
    """

    authorization: str | None = field(repr=False)
    address: str
    certificate: str | None = None
