"""Passwords that an upstream has refused: nobody has the proxy guess there, and its address shut out for everybody."""

from collections.abc import Callable
from time import monotonic
from typing import Final

import structlog

from registry_proxy.access.caller import Caller
from registry_proxy.access.verdicts import Verdicts
from registry_proxy.errors import Denied, TooManyRequests
from registry_proxy.oci.names import Repository
from registry_proxy.plan.attempts import Attempts

_log = structlog.get_logger()

_LOGIN: Final = Repository("_")
"""Stands for logging in where verdicts are about repositories; no repository has this name."""

_KNOWN: Final = 300.0
"""Seconds for which a password that was right, or wrong, is known as no new guess."""


class Guesses:
    """Of the clients of one upstream. ``refused``: called for each that has to pause; ``clock``: seconds, monotonic."""

    def __init__(self, verdicts: Verdicts, refused: Callable[[], None], clock: Callable[[], float] = monotonic) -> None:
        self._verdicts = verdicts
        self._refused = refused
        self._clock = clock
        self._attempts = Attempts()

    def check(self, caller: Caller) -> None:
        """Return if the upstream may be asked about what this client shows; raises TooManyRequests."""
        wait = self._attempts.wait(caller.client, self._clock())
        if wait and caller.authorization is not None and not self._verdicts.yes(caller.authorization, _LOGIN):
            self._refused()
            raise TooManyRequests("too many wrong passwords have come from your address", wait)

    def right(self, caller: Caller) -> None:
        """The upstream has taken it."""
        self._verdicts.allow(caller.authorization, _LOGIN, _KNOWN)

    def wrong(self, caller: Caller) -> None:
        """The upstream has not taken it; who shows nothing does not guess, nor who makes the same mistake for another repository."""
        if caller.authorization is None:
            return
        if self._verdicts.no(caller.authorization, _LOGIN) is None:
            self._attempts.failed(caller.client, self._clock())
            _log.info("login.refused", client=caller.client)
        self._verdicts.deny(caller.authorization, _LOGIN, Denied("a wrong password"), _KNOWN)
