"""How much one client may ask for: open connections, and requests per second. Pure: whoever calls passes the time."""

import functools
import ipaddress
from collections import Counter
from dataclasses import dataclass
from typing import Final

BURST: Final = 2.0
"""Seconds whose requests may come at once."""

_REMEMBERED: Final = 1 << 16
"""Clients whose pace is remembered; beyond, those who have paused are forgotten, then whoever asked first."""

Client = str
"""An IPv4 address, or the /64 of an IPv6 one: a client may have any address of it (RFC 6177)."""


@functools.lru_cache(maxsize=4096)
def client_of(remote: str | None) -> Client | None:
    """Whom an address stands for; None for this machine (loopback, a Unix socket), which has no limit of its own."""
    if not remote:
        return None
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:  # the path of a Unix socket that the client has bound
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return None if address.is_loopback else str(ipaddress.ip_network((address, 64), strict=False))
        address = address.ipv4_mapped
    return None if address.is_loopback else str(address)


class Crowd:
    """Who has how many connections open. ``total``, ``each``: most of them, all together and per client.

    This machine may have a few beyond the total: health checks get through a crowd.
    """

    RESERVE: Final = 32

    def __init__(self, total: int, each: int) -> None:
        self.total = total
        self.each = each
        self.open = 0
        self._of: Counter[Client] = Counter()

    def enter(self, client: Client | None) -> bool:
        """One more connection of this client, unless there are too many: False."""
        room = self.total + (self.RESERVE if client is None else 0)
        if self.open >= room or (client is not None and self._of[client] >= self.each):
            return False
        self.open += 1
        if client is not None:
            self._of[client] += 1
        return True

    def leave(self, client: Client | None) -> None:
        """One connection less of a client that had entered."""
        self.open -= 1
        if client is not None:
            self._of[client] -= 1
            if not self._of[client]:
                del self._of[client]


@dataclass(frozen=True, slots=True)
class TooFast:
    """A request that may not even wait. ``retry_after``: seconds until it might."""

    retry_after: float


class Paces:
    """The pace of each client. ``rate``: requests per second, after a burst of ``BURST`` seconds' worth; ``queue``: how many may wait.

    Per client one number is kept: when all that it has asked for so far would be done at this rate (GCRA, ITU-T I.371).
    """

    def __init__(self, rate: float, queue: int) -> None:
        self.rate = rate
        self.queue = queue
        self._done_at: dict[Client, float] = {}

    def ask(self, client: Client, now: float) -> float | TooFast:
        """How many seconds a request has to wait for its turn, or that it must not. ``now``: seconds on any clock that only grows."""
        done_at = max(self._done_at.get(client, now), now)
        wait = max(0.0, done_at - BURST - now)
        if wait * self.rate > self.queue:
            return TooFast(wait - self.queue / self.rate)
        if client not in self._done_at and len(self._done_at) >= _REMEMBERED:
            self._forget(now)
        self._done_at[client] = done_at + 1 / self.rate
        return wait

    def _forget(self, now: float) -> None:
        self._done_at = {client: done_at for client, done_at in self._done_at.items() if done_at > now}
        for client in list(self._done_at)[: max(0, len(self._done_at) - _REMEMBERED + _REMEMBERED // 8)]:
            del self._done_at[client]
