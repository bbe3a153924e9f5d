"""An Authorization header, and the query of a request for a token."""

from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.tokens import account, expiry, pulls
from tests.fuzz.text import fields

HOST = SourceHost("registry.example.org:5000")


def run(data: bytes) -> None:
    """The end of a token is a number or unknown; only names come out of scopes, and a name is one line."""
    header, query = fields(data, 2)
    assert isinstance(expiry(header), float | None)
    for name in pulls(query, HOST):
        assert not set(name) & set(" :&=%,*\n")
    assert account(query).isprintable()
