"""Which gate stands before which upstream, by the configuration."""

from collections.abc import Mapping

from registry_proxy.access.gate import Gate
from registry_proxy.access.guard import Guard, Realms
from registry_proxy.access.local import Fence, FencedRealm, LocalGate
from registry_proxy.access.passwords import Passwords
from registry_proxy.config import Upstream
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.networks import Networks
from registry_proxy.plan.users import Readers


def gates(upstreams: Mapping[SourceHost, Upstream], passwords: Passwords, others: Guard) -> Guard:
    """The gates of all upstreams that need one. ``others``: of those whose mode is pass-through; networks stand before them."""
    found = {host: _gate(host, upstream, passwords, others) for host, upstream in upstreams.items()}
    return {host: gate for host, gate in found.items() if gate is not None}


def realms(upstreams: Mapping[SourceHost, Upstream], relays: Realms) -> Realms:
    """Where the clients of those whose mode is pass-through get tokens: by these relays, within the networks of each."""
    return {
        host: FencedRealm(Networks(upstream.networks), relays[host]) if upstream.networks else relays[host]
        for host, upstream in upstreams.items()
        if upstream.access == "pass-through"
    }


def serve(
    settings: dict[SourceHost, Upstream],
    guard: dict[SourceHost, Gate],
    upstreams: Mapping[SourceHost, Upstream],
    made: Guard,
) -> None:
    """Have the mappings that others hold say that these upstreams are served, behind these gates.

    The gate of an upstream that is gone stays where it is: somebody may be on the way there.
    """
    for host in [host for host in guard if host in upstreams]:
        del guard[host]
    guard.update(made)
    settings.clear()
    settings.update(upstreams)


def _gate(host: SourceHost, upstream: Upstream, passwords: Passwords, others: Guard) -> Gate | None:
    gate: Gate | None = None
    if upstream.access == "pass-through":
        gate = others[host]
    elif upstream.access == "local" and (upstream.readers or not upstream.networks):
        gate = LocalGate(Readers(upstream.readers), passwords)
    return Fence(Networks(upstream.networks), gate) if upstream.networks else gate
