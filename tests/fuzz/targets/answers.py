"""JSON of an upstream and of its token server: error bodies, tokens, lists of names, indexes of referrers, hashes of a parent."""

import contextlib

import msgspec

from registry_proxy.errors import BlobUnknown, RegistryProxyError, UpstreamBroken
from registry_proxy.net.auth import _parse as parse_token
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.refusals import refusal
from registry_proxy.pull.discovery import _descriptors
from registry_proxy.sources.chunk_lists import _hashes
from registry_proxy.sources.registry import _Catalog, _decode, _Tags


def run(data: bytes) -> None:
    """Each is read or refused with an error of ours."""
    found = refusal(404, data, None, subject="", missing=BlobUnknown, account=False)
    assert isinstance(found, RegistryProxyError)
    with contextlib.suppress(UpstreamBroken):
        token = parse_token(data, "")
        assert token.token or token.access_token
    for kind in (_Tags, _Catalog):
        with contextlib.suppress(UpstreamBroken):
            _decode(data, kind, "")
    with contextlib.suppress(UpstreamBroken):
        _hashes(data).fits(1, 1)
    with contextlib.suppress(UpstreamBroken):
        msgspec.json.encode(_descriptors(data, SourceHost("registry.example")))
