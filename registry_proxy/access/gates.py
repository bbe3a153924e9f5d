"""Which gate stands before which upstream, by the configuration."""

from collections.abc import Mapping

from registry_proxy.access.gate import Gate
from registry_proxy.access.guard import Guard
from registry_proxy.access.local import Fence, LocalGate
from registry_proxy.access.passwords import Passwords
from registry_proxy.config import Upstream
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.networks import Networks
from registry_proxy.plan.users import Readers


def gates(upstreams: Mapping[SourceHost, Upstream], passwords: Passwords, others: Guard) -> Guard:
    """The gates of all upstreams that need one. ``others``: of those whose mode is pass-through; networks stand before them."""
    found = {host: _gate(upstream, passwords, others.get(host)) for host, upstream in upstreams.items()}
    return {host: gate for host, gate in found.items() if gate is not None}


def _gate(upstream: Upstream, passwords: Passwords, other: Gate | None) -> Gate | None:
    gate = other
    if upstream.access == "local" and (upstream.readers or not upstream.networks):
        gate = LocalGate(Readers(upstream.readers), passwords)
    return Fence(Networks(upstream.networks), gate) if upstream.networks else gate
