"""How many wrong passwords a client may try. Pure: whoever calls passes the time."""

from typing import Final

AT_ONCE: Final = 10
"""Wrong passwords before the first pause."""

PAUSE: Final = 3.0
"""Seconds for each further one."""

_REMEMBERED: Final = 1 << 16
"""Clients that are remembered; beyond, those are forgotten who have waited longest."""


class Attempts:
    """The wrong passwords of each client. Per client one number is kept: when all of them will be forgotten."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def wait(self, client: str, now: float) -> float:
        """Seconds until this client may try again; 0: it may now."""
        return max(0.0, self._until.get(client, now) - (AT_ONCE - 1) * PAUSE - now)

    def failed(self, client: str, now: float) -> None:
        """One more wrong password of this client."""
        until = max(self._until.pop(client, now), now) + PAUSE
        if len(self._until) >= _REMEMBERED:
            self._forget(now)
        self._until[client] = until

    def _forget(self, now: float) -> None:
        self._until = {client: until for client, until in self._until.items() if until > now}
        for client in list(self._until)[: max(0, len(self._until) - _REMEMBERED + _REMEMBERED // 8)]:
            del self._until[client]
