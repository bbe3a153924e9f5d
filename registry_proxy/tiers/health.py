"""Whether the store's disk works: remembered for a while after it has refused a chunk, logged once in that while."""

import time
from collections.abc import Callable
from typing import Final

import structlog

_log = structlog.get_logger()

_REFUSAL: Final = 10.0


class Health:
    """``late``: writes that were given up on and still run; as long as there is one, no other is tried.

    ``clock``: seconds, monotonic.
    """

    def __init__(self, directory: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._refusing_until = 0.0
        self._silent_until = 0.0
        self.late: set[object] = set()

    @property
    def writable(self) -> bool:
        """False for a while after trouble with a write, and while one is late."""
        return not self.late and self._clock() >= self._refusing_until

    def refuse(self, error: Exception) -> None:
        """A write failed: try none for a while."""
        self._refusing_until = self._clock() + _REFUSAL
        self.complain("store.refuses", error)

    def complain(self, event: str, error: Exception) -> None:
        """Log trouble with the disk, at most once in a while."""
        if self._clock() >= self._silent_until:
            self._silent_until = self._clock() + _REFUSAL
            _log.warning(event, reason=str(error) or type(error).__name__, directory=self._directory)
