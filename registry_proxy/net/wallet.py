"""What the clients of a pass-through upstream came with, kept in memory for a while.

Flights and background questions show one of these to the upstream, and only to the upstream: the newest that it has admitted to the
repository. Who may read what was fetched is none of the wallet's business (``access.pass_through``): a credential here opens nothing
but the upstream, which looks at it each time.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from registry_proxy.errors import Denied, LoginNeeded
from registry_proxy.net.authority import Refusal, Shown
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.plan.challenges import Challenge
from registry_proxy.plan.origins import Origin

_KEPT: Final = 300.0
"""Seconds from its last use for which a header is kept: a download that is under way may have to ask again."""

_EACH: Final = 8
"""Headers that are kept for one repository: the newest, as long as others do not outlive them."""

_REPOSITORIES: Final = 4096
_CHARACTERS: Final = 8 << 20
"""Of all headers together."""


@dataclass(slots=True)
class _Held:
    """A header. ``end``: of the token in it; ``until``: it is kept."""

    shown: Shown
    end: float
    until: float


class Wallet:
    """The headers of one upstream's clients; an ``Authority``.

    ``clock``: seconds, monotonic; ``dropped``: told of every header that the upstream has refused for a repository.
    """

    tries = 1 + _EACH

    def __init__(
        self, upstream: SourceHost, clock: Callable[[], float], dropped: Callable[[Repository | None, str | None], None]
    ) -> None:
        self._upstream = upstream
        self._clock = clock
        self._dropped = dropped
        self._held: OrderedDict[Repository | None, list[_Held]] = OrderedDict()
        self._characters = 0
        self._challenge: Challenge | None = None

    @property
    def challenge(self) -> Challenge | None:
        """What the upstream has last asked for; None while it has asked for nothing that clients can show."""
        return self._challenge

    def put(self, repository: Repository, shown: Shown, end: float) -> None:
        """The upstream has admitted this to the repository; ``end``: of the token in it, by the clock."""
        self._take(repository, shown)
        held = self._held.setdefault(repository, [])
        held.insert(0, _Held(shown, end, min(self._clock() + _KEPT, end)))
        self._characters += _length(shown)
        self._held.move_to_end(repository)
        if len(held) > _EACH:
            self._take(repository, min(reversed(held), key=lambda each: each.end).shown)
        while len(self._held) > _REPOSITORIES or self._characters > _CHARACTERS:
            self._characters -= sum(_length(each.shown) for each in self._held.popitem(last=False)[1])

    # --- an Authority ------------------------------------------------------------------------------------------------------

    def scheme(self, mirror: Origin) -> str | None:  # noqa: ARG002
        """See ``Authority``."""
        return self._challenge.scheme if self._challenge else None

    def uses_account(self, repository: Repository | None) -> bool:  # noqa: ARG002
        """See ``Authority``: there is no account."""
        return False

    async def header(self, mirror: Origin, repository: Repository | None) -> str | None:  # noqa: ARG002
        """See ``Authority``. Raises LoginNeeded or Denied if nobody has been admitted to this repository lately."""
        held = self._alive(repository)
        if not held:
            raise self._login(f"{self._upstream}: nobody who may read {repository} is here")
        held[0].until = min(self._clock() + _KEPT, held[0].end)
        return held[0].shown.authorization

    def learn(self, refusal: Refusal) -> bool:
        """See ``Authority``."""
        if refusal.status == 401:
            self._challenge = _usable(refusal.challenges) or self._challenge
        self._take(refusal.repository, refusal.shown)
        self._dropped(refusal.repository, refusal.shown.authorization)
        return bool(self._alive(refusal.repository))

    def denial(self, refusal: Refusal, subject: str) -> Denied | None:
        """See ``Authority``: a 401 asks the client to log in."""
        return self._login(f"{subject}: 401") if refusal.status == 401 else None

    # --- within ------------------------------------------------------------------------------------------------------------

    def _login(self, text: str) -> Denied:
        challenge = self._challenge
        if challenge is None:
            return Denied(text)
        if challenge.scheme == "basic":
            return LoginNeeded(text, basic=str(self._upstream))
        return LoginNeeded(text, service=challenge.parameters.get("service", ""))

    def _alive(self, repository: Repository | None) -> list[_Held]:
        """What may be shown, the newest first; what is over is forgotten."""
        now = self._clock()
        for each in [each for each in self._held.get(repository, ()) if each.until <= now]:
            self._take(repository, each.shown)
        return self._held.get(repository, [])

    def _take(self, repository: Repository | None, shown: Shown) -> None:
        held = self._held.get(repository, [])
        for each in [each for each in held if each.shown == shown]:
            held.remove(each)
            self._characters -= _length(shown)
        if not held:
            self._held.pop(repository, None)


def _usable(challenges: Iterable[Challenge]) -> Challenge | None:
    """The first challenge that a client can answer by way of this proxy, by a token if there is a choice."""
    offered = list(challenges)
    bearer = (each for each in offered if each.scheme == "bearer" and "realm" in each.parameters)
    basic = (each for each in offered if each.scheme == "basic")
    return next(bearer, None) or next(basic, None)


def _length(shown: Shown) -> int:
    return len(shown.authorization or "")
