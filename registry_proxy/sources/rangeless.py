"""Which upstreams answer 200 to a Range: learned from two answers, kept for a day."""

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.origins import Origin

_ENOUGH = 2
_DAY = 86400.0
_MOST_ORIGINS = 4096


class RangelessMemory(Protocol):
    """Remembers keys for a day."""

    def get(self, key: str) -> bool:
        """True if the key was noted less than a day ago."""

    def note(self, key: str) -> None:
        """Remember a key."""


class Rangeless:
    """Range-lessness by (upstream, the host that sent the bytes): one registry may have several storage hosts."""

    def __init__(self, memory: RangelessMemory) -> None:
        self._memory = memory
        self._seen: Counter[str] = Counter()
        self._last: dict[SourceHost, Origin] = {}

    def known(self, upstream: SourceHost) -> bool:
        """True if the host that sent this upstream's blobs last is known to have no ranges."""
        origin = self._last.get(upstream)
        return origin is not None and self._memory.get(_key(upstream, origin))

    def came(self, upstream: SourceHost, origin: Origin) -> None:
        """This host sent a blob of the upstream's."""
        self._last[upstream] = origin

    def ignored_range(self, upstream: SourceHost, origin: Origin) -> None:
        """A Range asked for less than the whole, and the host sent everything or would not answer."""
        key = _key(upstream, origin)
        self._seen[key] += 1
        if self._seen[key] >= _ENOUGH:
            self._memory.note(key)
            del self._seen[key]
        if len(self._seen) > _MOST_ORIGINS:
            self._seen.clear()

    def honoured_range(self, upstream: SourceHost, origin: Origin) -> None:
        """The host sent just what was asked for."""
        self._seen.pop(_key(upstream, origin), None)


def _key(upstream: SourceHost, origin: Origin) -> str:
    return f"{upstream} {origin}"


class DayMemory:
    """Remembers keys for a day, in memory: forgetting one costs nothing but a second look. ``clock``: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._noted: dict[str, float] = {}

    def get(self, key: str) -> bool:
        """True if the key was noted less than a day ago."""
        noted = self._noted.get(key)
        return noted is not None and self._clock() - noted < _DAY

    def note(self, key: str) -> None:
        """Remember a key."""
        self._noted[key] = self._clock()
