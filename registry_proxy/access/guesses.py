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
from registry_proxy.plan.limits import client_of

_log = structlog.get_logger()

LOGIN: Final = Repository("_")
"""Stands for logging in where verdicts are about repositories; no repository has this name."""

_KNOWN: Final = 300.0
"""Seconds for which a password that was right is known as no guess."""

_NO: Final = 5.0
"""Seconds for which a wrong password is not tried again."""


class Guesses:
    """Of the clients of one upstream. ``refused``: called for each that has to pause; ``clock``: seconds, monotonic."""

    def __init__(self, verdicts: Verdicts, refused: Callable[[], None], clock: Callable[[], float] = monotonic) -> None:
        self._verdicts = verdicts
        self._refused = refused
        self._clock = clock
        self._attempts = Attempts()

    def check(self, caller: Caller) -> None:
        """Return if the upstream may be asked about the password that this client shows; raises TooManyRequests, or the last refusal."""
        refusal = self._verdicts.no(caller.authorization, LOGIN)
        if refusal is not None:
            raise refusal.with_traceback(None)
        wait = self._attempts.wait(_client(caller), self._clock())
        if caller.authorization is not None and wait and not self._verdicts.yes(caller.authorization, LOGIN):
            self._refused()
            raise TooManyRequests("too many wrong passwords have come from your address", wait)

    def right(self, caller: Caller) -> None:
        """The upstream has taken it."""
        self._verdicts.allow(caller.authorization, LOGIN, _KNOWN)

    def wrong(self, caller: Caller, refusal: Denied) -> None:
        """The upstream has refused it, or who shows none at all."""
        self._verdicts.deny(caller.authorization, LOGIN, refusal, _NO)
        if caller.authorization is not None:
            client = _client(caller)
            self._attempts.failed(client, self._clock())
            _log.info("login.refused", client=client)


def _client(caller: Caller) -> str:
    return client_of(caller.address) or "this machine"
