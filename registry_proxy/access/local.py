"""Access by the proxy's own users, and by where a client is. Neither asks the upstream anything."""

import math

from registry_proxy.access.caller import Caller
from registry_proxy.access.gate import Gate, Subject, TokenRealm
from registry_proxy.access.passwords import Passwords
from registry_proxy.errors import Denied, LoginNeeded
from registry_proxy.oci.names import Repository
from registry_proxy.plan.networks import Networks
from registry_proxy.plan.users import Readers, User

REALM = "registry-proxy"
"""What a client is told that a password is for."""

_ALWAYS = math.inf


class LocalGate:
    """Lets in the users that ``readers`` names, each to their repositories. Who sends a password is whom it belongs to; who sends
    none is whom their certificate names."""

    def __init__(self, readers: Readers, passwords: Passwords) -> None:
        self._readers = readers
        self._passwords = passwords

    def at_hand(self, caller: Caller, repository: Repository | None) -> bool:
        """True if it is known already who the caller is, and that they may read this repository."""
        if repository is None:
            return False
        user = self._passwords.at_hand(caller.authorization) if caller.authorization is not None else _named(caller)
        return user is not None and self._readers.may_read(user, repository)

    async def admit(self, caller: Caller, subject: Subject) -> float:
        """As ``Gate`` has it; also raises TooManyRequests."""
        user = await self._user(caller)
        if user is None:
            told = (
                "the name or the password is wrong"
                if caller.authorization
                else "this registry wants to know who you are"
            )
            raise LoginNeeded(told, basic=REALM)
        if subject.repository is not None and not self._readers.may_read(user, subject.repository):
            raise Denied(f"{user} may not read {subject.repository}")
        if subject.catalog and not self._readers.may_list(user):
            raise Denied(f"{user} may not see the names of all repositories")
        return self._passwords.life

    async def _user(self, caller: Caller) -> User | None:
        if caller.authorization is None:
            return _named(caller)
        return await self._passwords.check(caller.authorization, caller.client)


class Fence:
    """Lets in whoever comes from one of these networks, as far as the gate behind it does, if there is one."""

    def __init__(self, networks: Networks, behind: Gate | None) -> None:
        self._networks = networks
        self._behind = behind

    def at_hand(self, caller: Caller, repository: Repository | None) -> bool:
        """True if the caller is within, and known behind."""
        return caller.address in self._networks and (self._behind is None or self._behind.at_hand(caller, repository))

    async def admit(self, caller: Caller, subject: Subject) -> float:
        """As ``Gate`` has it."""
        _stop(caller, self._networks)
        return await self._behind.admit(caller, subject) if self._behind is not None else _ALWAYS


class FencedRealm:
    """Gives tokens to whoever comes from one of these networks: nobody else tries passwords at the upstream by way of the proxy."""

    def __init__(self, networks: Networks, behind: TokenRealm) -> None:
        self._networks = networks
        self._behind = behind

    async def token(self, caller: Caller, query: str) -> bytes:
        """As ``TokenRealm`` has it."""
        _stop(caller, self._networks)
        return await self._behind.token(caller, query)


def _stop(caller: Caller, networks: Networks) -> None:
    if caller.address not in networks:
        raise Denied("this upstream is not served to your address")


def _named(caller: Caller) -> User | None:
    return User(caller.certificate) if caller.certificate else None
