"""Gates and token realms of pass-through upstreams as a server process has them: the fetcher asks the upstream and keeps what clients show.

A server remembers each yes for as long as it was told, and as long as that fetcher lives.
"""

from dataclasses import dataclass
from time import monotonic

from registry_proxy.access.caller import Caller
from registry_proxy.access.gate import Subject
from registry_proxy.access.verdicts import Verdicts
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
        life = (await self._line.ask(Admit(self._upstream, caller, subject), Admitted)).life
        self._verdicts.allow(caller.authorization, subject.repository, life)
        return life


@dataclass(frozen=True, slots=True)
class RemoteRealm:
    """The token realm of one upstream; see ``access.gate.TokenRealm``."""

    upstream: SourceHost
    line: Line

    async def token(self, caller: Caller, query: str) -> bytes:
        """See ``TokenRealm``; also raises NotSoon."""
        return (await self.line.ask(GetToken(self.upstream, caller, query), Token)).json
