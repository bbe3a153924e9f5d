"""Authorization for requests to an upstream: what its challenge asks for, from the account of the proxy's own or anonymously.

A registry challenges once; what it asked for is remembered per mirror, so that later requests carry the right header at once.
Tokens are kept in memory until they expire (distribution's "Token Authentication").
"""

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import urlencode

import msgspec

from registry_proxy.config import Upstream
from registry_proxy.errors import Denied, UpstreamBroken
from registry_proxy.net.accounts import Credential, load_credential
from registry_proxy.net.authority import Refusal
from registry_proxy.net.client import Client
from registry_proxy.net.outages import Outages
from registry_proxy.net.response import Response
from registry_proxy.net.single import SingleFlight
from registry_proxy.net.slots import Slots
from registry_proxy.oci.foreign import Unreadable, decode
from registry_proxy.oci.names import Repository
from registry_proxy.plan.challenges import Challenge
from registry_proxy.plan.origins import Origin
from registry_proxy.plan.realms import check_realm
from registry_proxy.plan.refusals import refusal

_MAX_TOKEN = 64 * 1024
_MAX_TOKENS = 1024
_TOKEN = re.compile(r"[!-~]+\Z")
_UNSAID_LIFE = 60.0
"""Seconds: what a token without ``expires_in`` is good for by the specification."""
_MARGIN = 10.0
"""Seconds before its end at which a token is not used any more."""
_CREDENTIAL_LIFE = 300.0
"""Seconds for which a password file or helper is not asked again."""


class _Answer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    value: str
    until: float


class Authenticator:
    """Authorization headers for one upstream and its mirrors; an ``Authority``."""

    tries = 2

    def __init__(
        self, settings: Upstream, client: Client, slots: Slots, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._client = client
        self._slots = slots
        self._clock = clock
        self._outages = Outages()
        self._challenges: dict[Origin, Challenge] = {}
        self._tokens: OrderedDict[tuple[Origin, str], _Kept] = OrderedDict()
        self._flights: SingleFlight[tuple[Origin, str], str] = SingleFlight()
        self._credentials: dict[Origin, tuple[Credential | None, float]] = {}

    def scheme(self, mirror: Origin) -> str | None:
        """The scheme that a mirror asked for (``basic``, ``bearer``); None while it has asked for nothing."""
        challenge = self._challenges.get(mirror)
        return challenge.scheme if challenge else None

    def uses_account(self, repository: Repository | None) -> bool:
        """True if the account is meant for this repository (None: for a request that is about none)."""
        if self._settings.account is None:
            return False
        patterns = self._settings.repositories
        return not patterns or (repository is not None and any(fnmatchcase(repository, each) for each in patterns))

    async def header(self, mirror: Origin, repository: Repository | None) -> str | None:
        """The Authorization that a mirror will want to see; None if it has not asked for any, or nothing can be had.

        Raises AccountRefused, Denied, UpstreamBusy, UpstreamFailed, UpstreamUnreachable or UpstreamBroken.
        """
        challenge = self._challenges.get(mirror)
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            credential = await self._credential(mirror, repository)
            return credential.basic if credential and credential.username else None
        key = (mirror, _scope(challenge, repository))
        kept = self._tokens.get(key)
        if kept is not None and kept.until > self._clock():
            self._tokens.move_to_end(key)
            return f"Bearer {kept.value}"
        token = await self._flights.do(key, lambda: self._fetch_token(mirror, challenge, key[1], repository))
        return f"Bearer {token}"

    def learn(self, refusal: Refusal) -> bool:
        """Take a 401's challenges and drop what it was given; False if nothing that we could show is asked for."""
        if refusal.status != 401:
            return False
        mirror, repository, challenges = refusal.mirror, refusal.repository, refusal.challenges
        wanted = [each for each in challenges if each.scheme == "bearer" and "realm" in each.parameters]
        if self.uses_account(repository):
            wanted += [each for each in challenges if each.scheme == "basic"]
        self._credentials.pop(mirror, None)
        if not wanted:
            return False
        self._challenges[mirror] = wanted[0]
        self._tokens.pop((mirror, _scope(wanted[0], repository)), None)
        return True

    def denial(self, refusal: Refusal, subject: str) -> Denied | None:  # noqa: ARG002
        """See ``Authority``: clients are told what ``plan.refusals`` says."""
        return None

    async def _credential(self, mirror: Origin, repository: Repository | None) -> Credential | None:
        if self._settings.account is None or not self.uses_account(repository):
            return None
        kept = self._credentials.get(mirror)
        if kept is None or kept[1] <= self._clock():
            default = {"http": 80, "https": 443}[mirror.scheme]
            host = mirror.host if mirror.port == default else f"{mirror.host}:{mirror.port}"
            credential = await load_credential(self._settings.account, host)
            kept = self._credentials[mirror] = (credential, self._clock() + _CREDENTIAL_LIFE)
        return kept[0]

    async def _fetch_token(
        self, mirror: Origin, challenge: Challenge, scope: str, repository: Repository | None
    ) -> str:
        realm = challenge.parameters["realm"]
        origin = check_realm(mirror, realm, self._settings.realms)
        credential = await self._credential(mirror, repository)
        subject = f"a token for {scope or mirror} from {origin}"
        what = f"the token server of {mirror}"  # and not its name, of which it may have any number
        async with self._outages.line(what, self._slots.slot()), AsyncExitStack() as stack:
            with self._outages.watched(what):
                sending = self._request_token(mirror, realm, challenge, scope, credential)
                response = await stack.enter_async_context(sending)
            if response.status != 200:
                account = credential is not None
                raise refusal(response.status, b"", None, subject=subject, missing=UpstreamBroken, account=account)
            answer = _parse(await response.read(_MAX_TOKEN), subject)
        self._keep((mirror, scope), answer)
        return answer.token or answer.access_token

    def _request_token(
        self, mirror: Origin, realm: str, challenge: Challenge, scope: str, credential: Credential | None
    ) -> AbstractAsyncContextManager[Response]:
        fields = {"service": challenge.parameters.get("service", ""), "scope": scope}
        fields = {name: value for name, value in fields.items() if value}
        if credential is not None and credential.identity_token is not None:
            fields |= {
                "grant_type": "refresh_token",
                "refresh_token": credential.identity_token,
                "client_id": "registry-proxy",
            }
            return self._client.send("POST", realm, by=mirror, form=fields, patterns=self._settings.realms)
        headers: Mapping[str, str] = {"Authorization": credential.basic} if credential else {}
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(fields)}"
        return self._client.send("GET", url, headers, by=mirror, patterns=self._settings.realms)

    def _keep(self, key: tuple[Origin, str], answer: _Answer) -> None:
        life = _UNSAID_LIFE if answer.expires_in is None else answer.expires_in
        until = self._clock() + life - min(_MARGIN, life / 2)
        self._tokens[key] = _Kept(answer.token or answer.access_token, until)
        while len(self._tokens) > _MAX_TOKENS:
            self._tokens.popitem(last=False)


def _scope(challenge: Challenge, repository: Repository | None) -> str:
    """What to ask a token for: a pull from the repository, else whatever the challenge says."""
    return f"repository:{repository}:pull" if repository else challenge.parameters.get("scope", "")


def _parse(body: bytes, subject: str) -> _Answer:
    try:
        answer = decode(body, _Answer)
    except Unreadable as error:
        raise UpstreamBroken(f"{subject}: not a token: {error}") from error
    if not _TOKEN.match(answer.token or answer.access_token):
        raise UpstreamBroken(f"{subject}: the answer has no usable token")
    return answer
