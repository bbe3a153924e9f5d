"""Pass-through: a client reads what the upstream gives to its own credentials.

The upstream is asked about the very thing that is wanted (``questions``); its yes holds for that credential and repository, no longer
than the policy and the token allow. Everybody else waits for a yes of their own, whatever lies in the store.
"""

import math
import time
from collections.abc import Callable
from typing import Final

from registry_proxy.access import questions
from registry_proxy.access.caller import Caller, checked
from registry_proxy.access.gate import Subject
from registry_proxy.access.guesses import Guesses
from registry_proxy.access.verdicts import Verdicts
from registry_proxy.config import Policy
from registry_proxy.errors import (
    BlobUnknown,
    Denied,
    LoginNeeded,
    ManifestUnknown,
    NameUnknown,
    NoVerdict,
    Offline,
    Trouble,
    UpstreamBusy,
)
from registry_proxy.net.authority import Shown
from registry_proxy.net.single import SingleFlight
from registry_proxy.net.upstream import UpstreamClient
from registry_proxy.net.wallet import Wallet
from registry_proxy.oci.names import Repository
from registry_proxy.plan.tokens import expiry

_NO: Final = 5.0
"""Seconds for which a refusal holds, so that a wrong password does not reach the upstream a thousand times."""

_ERRAND: Final = 5.0
"""Seconds in which what the upstream took a moment ago may be shown to it, whatever the token says of its own end."""


class PassThrough:
    """The gate of one upstream. ``clock``: seconds, monotonic; ``wall``: seconds since the epoch."""

    def __init__(
        self,
        client: UpstreamClient,
        wallet: Wallet,
        verdicts: Verdicts,
        guesses: Guesses,
        policy: Policy,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._wallet = wallet
        self._verdicts = verdicts
        self._guesses = guesses
        self._policy = policy
        self._clock = clock
        self._wall = wall
        self._asking: SingleFlight[tuple[bytes, Subject], float] = SingleFlight()

    def apply(self, policy: Policy) -> None:
        """Hold this policy from the next question on."""
        self._policy = policy

    def at_hand(self, caller: Caller, repository: Repository | None) -> bool:
        """See ``Gate``."""
        return self._verdicts.yes(caller.authorization, repository)

    async def admit(self, caller: Caller, subject: Subject) -> float:
        """See ``Gate``; also raises TooManyRequests."""
        authorization = checked(caller.authorization)
        refusal = self._verdicts.no(authorization, subject.repository) or self._verdicts.no(authorization, subject)
        if refusal is not None:
            raise refusal
        if self._policy.offline:
            raise Offline(f"the proxy is offline, and {self._client.name} cannot be asked who may read")
        if self._is_password(authorization):
            self._guesses.check(caller)
        key = self._verdicts.who(authorization), subject
        return await self._asking.do(key, lambda: self._ask(caller, Shown(authorization, caller.client), subject))

    async def _ask(self, caller: Caller, shown: Shown, subject: Subject) -> float:
        try:
            await self._ask_upstream(shown, subject)
        except Denied as refusal:
            if isinstance(refusal, LoginNeeded) and self._is_password(shown.authorization):
                self._guesses.wrong(caller)
            self._refused(shown, subject, refusal)
            raise
        except UpstreamBusy as busy:
            raise NoVerdict(f"{self._client.name} cannot say who may read: {busy}", busy.retry_after) from busy
        except Trouble as trouble:
            raise NoVerdict(f"{self._client.name} cannot say who may read: {trouble}") from trouble
        if self._is_password(shown.authorization):
            self._guesses.right(caller)
        return self._admitted(shown, subject)

    def _is_password(self, authorization: str | None) -> bool:
        """True for a password that the upstream itself judges; with tokens, that is the token server's part."""
        challenge = self._wallet.challenge
        wanted = challenge is not None and challenge.scheme == "basic"
        return wanted and authorization is not None and authorization.lower().startswith("basic ")

    async def _ask_upstream(self, shown: Shown, subject: Subject) -> None:
        """What the upstream does not have it cannot give to anybody; who may read its repository may then be told so here, or get
        what was made here of an image of that repository."""
        try:
            await questions.ask(self._client, subject, shown)
        except (ManifestUnknown, BlobUnknown):
            if subject.repository is None:
                raise
            try:
                await questions.ask_repository(self._client, subject.repository, shown)
                return
            except (NameUnknown, Denied):  # some upstreams let their users pull, and not list
                pass
            raise

    def _refused(self, shown: Shown, subject: Subject, refusal: Denied) -> None:
        """Who has to log in has to for all that is there; what is forbidden may be this one thing, and others show the same."""
        about = subject.repository if isinstance(refusal, LoginNeeded) else subject
        self._verdicts.deny(shown.authorization, about, refusal, min(_NO, self._policy.verdict))

    def _admitted(self, shown: Shown, subject: Subject) -> float:
        now, repository = self._clock(), subject.repository
        end = self._end(shown.authorization)
        if repository is not None:
            self._wallet.put(repository, shown, max(end, now + _ERRAND))
        if subject.is_list:
            return 0.0
        life = max(0.0, min(float(self._policy.verdict), end - now))
        self._verdicts.allow(shown.authorization, repository, life)
        return life

    def _end(self, authorization: str | None) -> float:
        """When the token in a header ends, by the clock: as its giver said here, else as it says itself (by a clock of its own)."""
        given = self._verdicts.end(authorization)
        says = expiry(authorization) if given is None else None
        if says is not None:
            return self._clock() + says - self._wall()
        return math.inf if given is None else given
