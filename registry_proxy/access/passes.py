"""Everything that the pass-through upstreams need, put together."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from registry_proxy.access.pass_through import PassThrough
from registry_proxy.access.token_relay import TokenRelay
from registry_proxy.access.verdicts import Verdicts
from registry_proxy.config import Policy, Upstream
from registry_proxy.net.upstream import UpstreamClient
from registry_proxy.net.wallet import Wallet
from registry_proxy.oci.names import SourceHost


@dataclass(frozen=True, slots=True)
class Pass:
    """What one such upstream has before anything is said to it: ``wallet`` is what its client shows."""

    wallet: Wallet
    verdicts: Verdicts


@dataclass(frozen=True, slots=True)
class Passing:
    """The gates and the token realms of all of them."""

    gates: Mapping[SourceHost, PassThrough]
    realms: Mapping[SourceHost, TokenRelay]

    def apply(self, policy: Policy) -> None:
        """Hold this policy from the next question on."""
        for gate in self.gates.values():
            gate.apply(policy)


def passes(upstreams: Mapping[SourceHost, Upstream]) -> dict[SourceHost, Pass]:
    """A pass for each upstream that has this mode."""
    found: dict[SourceHost, Pass] = {}
    for host, upstream in upstreams.items():
        if upstream.access == "pass-through":
            verdicts = Verdicts(time.monotonic)
            found[host] = Pass(Wallet(host, time.monotonic, verdicts.drop), verdicts)
    return found


def passing(passes: Mapping[SourceHost, Pass], clients: Mapping[SourceHost, UpstreamClient], policy: Policy) -> Passing:
    """What stands before them."""
    return Passing(
        {host: PassThrough(clients[host], one.wallet, one.verdicts, policy) for host, one in passes.items()},
        {host: TokenRelay(clients[host], one.wallet, one.verdicts) for host, one in passes.items()},
    )
