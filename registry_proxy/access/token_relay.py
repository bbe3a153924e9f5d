"""A token realm of the proxy's own for a pass-through upstream: it relays to the upstream's (distribution's "Token Authentication").

Clients show their password to whoever challenges them, here this proxy: it goes to the upstream's own token server, for pulls from that
upstream's repositories and nothing else, and what comes back is handed on without what could be used for longer than a pull.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import msgspec

from registry_proxy.access.caller import Caller, checked
from registry_proxy.access.guesses import Guesses
from registry_proxy.access.verdicts import Verdicts
from registry_proxy.errors import (
    BadRequest,
    Denied,
    LoginNeeded,
    NoSuchEndpoint,
    NoVerdict,
    RegistryProxyError,
    Trouble,
    UpstreamBroken,
    UpstreamBusy,
)
from registry_proxy.net.authority import Shown
from registry_proxy.net.response import Response
from registry_proxy.net.single import SingleFlight
from registry_proxy.net.upstream import Ask, UpstreamClient
from registry_proxy.net.wallet import Wallet
from registry_proxy.oci.foreign import Unreadable, decode
from registry_proxy.oci.names import Repository
from registry_proxy.plan import tokens
from registry_proxy.plan.challenges import Challenge
from registry_proxy.plan.origins import Origin
from registry_proxy.plan.realms import check_realm
from registry_proxy.plan.refusals import refusal

_MAX_TOKEN: Final = 64 * 1024
_NO: Final = 5.0
"""Seconds for which a refusal is told again without asking."""

_LONGEST_LIFE: Final = 1 << 30
_UNSAID_LIFE: Final = 60.0
"""Seconds: what a token without ``expires_in`` is good for by the specification."""


class _Said(msgspec.Struct):
    """What a token server says, as far as a client is told of it."""

    token: str = ""
    access_token: str = ""
    expires_in: float = _UNSAID_LIFE
    issued_at: str = ""


class _Given(msgspec.Struct, omit_defaults=True):
    """What a client is told; ``expires_in`` is a whole number, since clients read nothing else."""

    token: str
    access_token: str
    expires_in: int
    issued_at: str = ""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a token is asked for: pulls from these repositories, by this account (empty: none in particular)."""

    repositories: tuple[Repository, ...]
    account: str

    @property
    def about(self) -> Repository:
        """What stands for it where verdicts are about repositories; none has a space in its name."""
        return Repository(" ".join(("token", self.account, *self.repositories)))

    def fields(self, challenge: Challenge) -> list[tuple[str, str]]:
        """The query for the upstream's token server."""
        named = (("service", challenge.parameters.get("service", "")), ("account", self.account))
        return [
            *(pair for pair in named if pair[1]),
            *(("scope", f"repository:{name}:pull") for name in self.repositories),
        ]


class TokenRelay:
    """The token realm of one upstream."""

    def __init__(self, client: UpstreamClient, wallet: Wallet, verdicts: Verdicts, guesses: Guesses) -> None:
        self._client = client
        self._wallet = wallet
        self._verdicts = verdicts
        self._guesses = guesses
        self._asking: SingleFlight[tuple[bytes, _Asked], bytes] = SingleFlight()

    async def token(self, caller: Caller, query: str) -> bytes:
        """The JSON that answers a request for a token with this query.

        Raises LoginNeeded or Denied as the upstream's token server does, NoSuchEndpoint if the upstream has none, TooManyRequests, NoVerdict.
        """
        authorization = checked(caller.authorization)
        if authorization is not None and not authorization.lower().startswith("basic "):
            raise BadRequest("a token server wants Basic credentials, or none")
        asked = _Asked(tuple(tokens.pulls(query, self._client.name)), tokens.account(query))
        refusal = self._verdicts.no(authorization, asked.about)
        if refusal is not None:
            raise refusal
        self._guesses.check(caller)
        key = self._verdicts.who(authorization), asked
        return await self._asking.do(key, lambda: self._given(caller, asked))

    async def _given(self, caller: Caller, asked: _Asked) -> bytes:
        try:
            given = await self._relayed(Shown(caller.authorization, caller.client), asked)
        except Denied as denied:
            if isinstance(denied, LoginNeeded):
                self._guesses.wrong(caller)
            self._verdicts.deny(caller.authorization, asked.about, denied, _NO)
            raise
        except UpstreamBusy as busy:
            raise NoVerdict(str(busy), busy.retry_after) from busy
        except Trouble as trouble:
            raise NoVerdict(str(trouble)) from trouble
        self._guesses.right(caller)
        self._verdicts.ends(f"Bearer {given.token}", given.expires_in)
        return msgspec.json.encode(given)

    async def _relayed(self, shown: Shown, asked: _Asked) -> _Given:
        challenge = await self._challenge(shown.client)
        realm = challenge.parameters["realm"]
        origin = check_realm(Origin.of(self._client.settings.urls[0]), realm, self._client.settings.realms)
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(asked.fields(challenge))}"
        async with self._client.ask_realm(url, shown) as response:
            if response.status != 200:
                raise self._refusal(response, origin)
            return _given(await response.read(_MAX_TOKEN), origin)

    async def _challenge(self, client: str) -> Challenge:
        """What the upstream asks for, asked anew if it has not been heard yet."""
        if self._wallet.challenge is None:
            try:
                async with self._client.ask(Ask("/v2/", UpstreamBroken, shown=Shown(None, client))):
                    pass
            except Denied:
                pass
        challenge = self._wallet.challenge
        if challenge is None or challenge.scheme != "bearer":
            raise NoSuchEndpoint(f"{self._client.name} has no token server")
        return challenge

    def _refusal(self, response: Response, origin: Origin) -> RegistryProxyError:
        subject = f"a token from {origin}"
        if response.status == 401:
            return LoginNeeded(f"{subject}: 401", basic=str(self._client.name))
        return refusal(response.status, b"", None, subject=subject, missing=UpstreamBroken, account=False)


def _given(body: bytes, origin: Origin) -> _Given:
    try:
        said = decode(body, _Said)
    except Unreadable as error:
        raise UpstreamBroken(f"{origin}: not a token: {error}") from None
    token = said.token or said.access_token
    if not token or not token.isascii() or not token.isprintable():
        raise UpstreamBroken(f"{origin}: the answer has no usable token")
    return _Given(token, token, int(min(max(said.expires_in, 0), _LONGEST_LIFE)), said.issued_at)
