"""The upstreams as a server process has them: of those with pass-through, the fetcher asks the upstream and keeps what clients show.

A server remembers each yes for as long as it was told, and as long as that fetcher lives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from registry_proxy.access.caller import Caller, checked
from registry_proxy.access.gate import Gate, Subject, TokenRealm
from registry_proxy.access.gates import gates, realms, serve
from registry_proxy.access.passwords import Passwords
from registry_proxy.access.verdicts import Verdicts
from registry_proxy.config import Config, Upstream
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.workers.calls import Admit, Admitted, GetToken, Token
from registry_proxy.workers.line import Line


class RemoteGate:
    """The gate of one upstream; see ``access.gate.Gate``."""

    def __init__(self, upstream: SourceHost, line: Line) -> None:
        self._upstream = upstream
        self._line = line
        self._verdicts = Verdicts(monotonic)
        line.renewed.append(self._verdicts.forget)

    def at_hand(self, caller: Caller, repository: Repository | None) -> bool:
        """See ``Gate``."""
        return self._verdicts.yes(caller.authorization, repository)

    async def admit(self, caller: Caller, subject: Subject) -> float:
        """See ``Gate``; also raises NotSoon."""
        authorization = checked(caller.authorization)
        life = (await self._line.ask(Admit(self._upstream, caller, subject), Admitted)).life
        if life:
            self._verdicts.allow(authorization, subject.repository, life)
        return life


@dataclass(frozen=True, slots=True)
class RemoteRealm:
    """The token realm of one upstream; see ``access.gate.TokenRealm``."""

    upstream: SourceHost
    line: Line

    async def token(self, caller: Caller, query: str) -> bytes:
        """See ``TokenRealm``; also raises NotSoon."""
        checked(caller.authorization)
        return (await self.line.ask(GetToken(self.upstream, caller, query), Token)).json


class Served:
    """The upstreams that are served, their gates and token realms, in mappings that others hold; see ``access.upstreams``."""

    def __init__(self, config: Config, passwords: Passwords, line: Line) -> None:
        self.settings: dict[SourceHost, Upstream] = {}
        self.guard: dict[SourceHost, Gate] = {}
        self.realms: dict[SourceHost, TokenRealm] = {}
        self._passwords = passwords
        self._line = line
        self._asking: dict[SourceHost, RemoteGate] = {}
        self.apply(config)

    def apply(self, config: Config) -> None:
        """Serve these from now on. If they are others than before, or otherwise, the fetcher is asked again about everything."""
        changed = config.upstreams != self.settings
        passing = [host for host, upstream in config.upstreams.items() if upstream.access == "pass-through"]
        self.realms.clear()
        self.realms.update(realms(config.upstreams, {host: RemoteRealm(host, self._line) for host in passing}))
        serve(
            self.settings, self.guard, config.upstreams, gates(config.upstreams, self._passwords, self._gates(passing))
        )
        if changed:
            self._line.forget()

    def _gates(self, hosts: Sequence[SourceHost]) -> dict[SourceHost, RemoteGate]:
        """Their gates; each is made once, since it hears from the line for as long as that lives."""
        for host in hosts:
            if host not in self._asking:
                self._asking[host] = RemoteGate(host, self._line)
        return {host: self._asking[host] for host in hosts}
