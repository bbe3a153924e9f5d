"""What is made of the settings of each upstream, and made anew when they change while the instance runs.

Whoever was given one of the mappings sees a change at once. An exchange that is under way ends with the client that it began with.
"""

import time
from types import TracebackType
from typing import Self

import msgspec

from registry_proxy.access.gate import Gate, TokenRealm
from registry_proxy.access.gates import gates, serve
from registry_proxy.access.pass_through import PassThrough
from registry_proxy.access.passwords import Passwords
from registry_proxy.access.token_relay import TokenRelay
from registry_proxy.access.verdicts import Verdicts
from registry_proxy.config import Config, Upstream
from registry_proxy.net.upstream import UpstreamClient
from registry_proxy.net.wallet import Wallet
from registry_proxy.oci.names import SourceHost
from registry_proxy.sources.registry import Registry
from registry_proxy.telemetry.metrics import Metrics


class Upstreams:
    """The upstreams by source host.

    ``settings``: of those that are served. ``clients``, ``registries``: of these, and of those that were: what is under way may have
    more to ask. ``guard``: their gates; ``realms``: where the clients of pass-through upstreams get their tokens; ``passing``: the gates of
    those. ``closed``: something private may lie in the store, or be on its way there.
    """

    def __init__(self, config: Config, passwords: Passwords, metrics: Metrics) -> None:
        self.settings: dict[SourceHost, Upstream] = {}
        self.clients: dict[SourceHost, UpstreamClient] = {}
        self.registries: dict[SourceHost, Registry] = {}
        self.guard: dict[SourceHost, Gate] = {}
        self.realms: dict[SourceHost, TokenRealm] = {}
        self.passing: dict[SourceHost, PassThrough] = {}
        self.closed = False
        self._passwords = passwords
        self._metrics = metrics
        self._replaced: list[UpstreamClient] = []
        self._passes: dict[SourceHost, tuple[Wallet, Verdicts]] = {}
        self.apply(config)

    async def __aenter__(self) -> Self:
        """Nothing to do: connections are made when they are needed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        self._replaced += self.clients.values()
        await self.tidy()

    async def tidy(self) -> None:
        """Close the connections of clients that were replaced, as far as they are at rest; the others close their own."""
        while self._replaced:
            await self._replaced.pop().retire()

    def apply(self, config: Config) -> None:
        """Serve these upstreams from now on, by this policy; what is under way goes on, and ``tidy`` follows."""
        for host, settings in config.upstreams.items():
            known = self.clients.get(host)
            if known is None or said(known.settings) != said(settings):
                self._meet(host, settings, config)
        serve(self.settings, self.guard, config.upstreams, gates(config.upstreams, self._passwords, self.passing))
        self.closed = self.closed or any(settings.private for settings in config.upstreams.values())
        for gate in self.passing.values():
            gate.apply(config.policy)

    def _meet(self, host: SourceHost, settings: Upstream, config: Config) -> None:
        """Speak to an upstream by these settings."""
        before = self.clients.get(host)
        if before is not None:
            self._replaced.append(before)
        self.passing.pop(host, None)
        self.realms.pop(host, None)
        if settings.access == "pass-through":
            wallet, verdicts = self._pass(host, stays=before is not None and before.settings.urls == settings.urls)
            client = UpstreamClient(host, settings, self._metrics, wallet)
            self.passing[host] = PassThrough(client, wallet, verdicts, config.policy)
            self.realms[host] = TokenRelay(client, wallet, verdicts)
        else:
            client = UpstreamClient(host, settings, self._metrics)
        self.clients[host] = client
        self.registries[host] = Registry(client)

    def _pass(self, host: SourceHost, *, stays: bool) -> tuple[Wallet, Verdicts]:
        """What clients have shown to an upstream, and what it said: for another place than before, nothing yet."""
        if not stays or host not in self._passes:
            verdicts = Verdicts(time.monotonic)
            self._passes[host] = Wallet(host, time.monotonic, verdicts.drop), verdicts
        return self._passes[host]


def said(settings: Upstream) -> Upstream:
    """What of the settings concerns what is said to the upstream; the rest is looked up each time that it matters."""
    return msgspec.structs.replace(
        settings, readers={}, networks=(), tag_fresh=None, eager_siblings=True, catalog=False, listen=()
    )
