"""A token realm of the proxy's own for a pass-through upstream: it relays to the upstream's (distribution's "Token Authentication").

Clients show their password to whoever challenges them, here this proxy: it goes to the upstream's own token server, for pulls from that
upstream's repositories and nothing else, and what comes back is handed on without what could be used for longer than a pull.
"""

from typing import Final
from urllib.parse import urlencode

import msgspec

from registry_proxy.access.caller import Caller
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
from registry_proxy.net.upstream import Ask, UpstreamClient
from registry_proxy.net.wallet import Wallet
from registry_proxy.oci.foreign import Unreadable, decode
from registry_proxy.plan import tokens
from registry_proxy.plan.challenges import Challenge
from registry_proxy.plan.origins import Origin
from registry_proxy.plan.realms import check_realm
from registry_proxy.plan.refusals import refusal

_MAX_TOKEN: Final = 64 * 1024
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


class TokenRelay:
    """The token realm of one upstream."""

    def __init__(self, client: UpstreamClient, wallet: Wallet, verdicts: Verdicts, guesses: Guesses) -> None:
        self._client = client
        self._wallet = wallet
        self._verdicts = verdicts
        self._guesses = guesses

    async def token(self, caller: Caller, query: str) -> bytes:
        """The JSON that answers a request for a token with this query.

        Raises LoginNeeded or Denied as the upstream's token server does, NoSuchEndpoint if the upstream has none, TooManyRequests, NoVerdict.
        """
        authorization = caller.authorization
        if authorization is not None and not authorization.lower().startswith("basic "):
            raise BadRequest("a token server wants Basic credentials, or none")
        self._guesses.check(caller)
        try:
            given = await self._relayed(authorization, query)
        except Denied as denied:
            self._guesses.wrong(caller, denied)
            raise
        except UpstreamBusy as busy:
            raise NoVerdict(str(busy), busy.retry_after) from busy
        except Trouble as trouble:
            raise NoVerdict(str(trouble)) from trouble
        self._guesses.right(caller)
        self._verdicts.ends(f"Bearer {given.token}", given.expires_in)
        return msgspec.json.encode(given)

    async def _relayed(self, authorization: str | None, query: str) -> _Given:
        challenge = await self._challenge()
        realm = challenge.parameters["realm"]
        origin = check_realm(Origin.of(self._client.settings.urls[0]), realm, self._client.settings.realms)
        headers = {"Authorization": authorization} if authorization else {}
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(self._fields(challenge, query))}"
        async with self._client.ask_realm(url, headers) as response:
            if response.status != 200:
                raise self._refusal(response, origin)
            return _given(await response.read(_MAX_TOKEN), origin)

    def _fields(self, challenge: Challenge, query: str) -> list[tuple[str, str]]:
        service, account = challenge.parameters.get("service", ""), tokens.account(query)
        scopes = [("scope", f"repository:{name}:pull") for name in tokens.pulls(query, self._client.name)]
        return [*(pair for pair in (("service", service), ("account", account)) if pair[1]), *scopes]

    async def _challenge(self) -> Challenge:
        """What the upstream asks for, asked anew if it has not been heard yet."""
        if self._wallet.challenge is None:
            try:
                async with self._client.ask(Ask("/v2/", UpstreamBroken, shown=Shown(None))):
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
