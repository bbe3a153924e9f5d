"""What is made of the settings of each upstream, and made anew when they change while the instance runs.

Whoever was given one of the mappings sees a change at once. An exchange that is under way ends with the client that it began with.
"""

import time
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from registry_proxy.access.gate import Gate, TokenRealm
from registry_proxy.access.gates import gates, realms, serve
from registry_proxy.access.guesses import Guesses
from registry_proxy.access.pass_through import PassThrough
from registry_proxy.access.passwords import Passwords
from registry_proxy.access.token_relay import TokenRelay
from registry_proxy.access.verdicts import Verdicts
from registry_proxy.config import Config, Upstream
from registry_proxy.net.upstream import UpstreamClient
from registry_proxy.net.wallet import Wallet
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.sources.registry import Registry
from registry_proxy.telemetry.metrics import Metrics


class Pass(NamedTuple):
    """What the clients of a pass-through upstream have shown, and what was said to it."""

    wallet: Wallet
    verdicts: Verdicts
    guesses: Guesses


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
        self._passes: dict[SourceHost, Pass] = {}
        self._relays: dict[SourceHost, TokenRelay] = {}
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

    def asked_as(self, host: SourceHost, repository: Repository) -> str:
        """As whom an upstream is asked about a repository; of one that is not known, what none is."""
        registry = self.registries.get(host)
        return "nobody!" if registry is None else registry.asked_as(repository)

    def hidden(self, host: str) -> bool:
        """True if the names in this upstream are for its readers alone."""
        settings = self.settings.get(SourceHost(host))
        return settings is None or settings.guarded

    async def tidy(self) -> None:
        """Close the connections of clients that were replaced, as far as they are at rest; the others close their own."""
        while self._replaced:
            await self._replaced.pop().retire()

    def apply(self, config: Config) -> None:
        """Serve these upstreams from now on, by this policy; what is under way goes on, and ``tidy`` follows.

        Raises ConfigInvalid if one cannot be spoken to as it is to be; nothing has changed then.
        """
        made = [
            self._made(host, settings) for host, settings in config.upstreams.items() if self._is_new(host, settings)
        ]
        for client, given in made:
            self._meet(client, given, config)
        serve(self.settings, self.guard, config.upstreams, gates(config.upstreams, self._passwords, self.passing))
        self.realms.clear()
        self.realms.update(realms(config.upstreams, self._relays))
        self.closed = self.closed or any(settings.private for settings in config.upstreams.values())
        for gate in self.passing.values():
            gate.apply(config.policy)

    def _is_new(self, host: SourceHost, settings: Upstream) -> bool:
        known = self.clients.get(host)
        return known is None or said(known.settings) != said(settings)

    def _made(self, host: SourceHost, settings: Upstream) -> tuple[UpstreamClient, Pass | None]:
        """A client, and what its clients have shown and were told: for another place than before, nothing yet."""
        if settings.access != "pass-through":
            return UpstreamClient(host, settings, self._metrics), None
        given = self._passes.get(host)
        if given is None or self.clients[host].settings.urls != settings.urls:
            verdicts = Verdicts(time.monotonic)
            guesses = Guesses(verdicts, partial(self._metrics.refused, "password"))
            given = Pass(Wallet(host, time.monotonic, verdicts.drop), verdicts, guesses)
        return UpstreamClient(host, settings, self._metrics, given.wallet), given

    def _meet(self, client: UpstreamClient, given: Pass | None, config: Config) -> None:
        """Speak to an upstream by this client."""
        host = client.name
        if host in self.clients:
            self._replaced.append(self.clients[host])
        self.clients[host] = client
        self.registries[host] = Registry(client)
        self._passes.pop(host, None)
        self.passing.pop(host, None)
        self._relays.pop(host, None)
        if given is not None:
            self._passes[host] = given
            self.passing[host] = PassThrough(client, *given, config.policy)
            self._relays[host] = TokenRelay(client, *given)


def said(settings: Upstream) -> Upstream:
    """What of the settings concerns what is said to the upstream; the rest is looked up each time that it matters."""
    return msgspec.structs.replace(
        settings, readers={}, networks=(), tag_fresh=None, eager_siblings=True, catalog=False, listen=()
    )
