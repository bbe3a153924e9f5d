"""The registry and its mirrors in the order in which to try them."""

import time
from collections.abc import Callable, Sequence

_SKIPPED = 30.0
"""Seconds for which a mirror that did not answer is tried last, so that it does not cost its timeout every time."""


class Mirrors:
    """The URLs of one upstream, without a slash at the end."""

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._urls = tuple(url.rstrip("/") for url in urls)
        self._clock = clock
        self._down_until: dict[str, float] = {}

    def ordered(self) -> list[str]:
        """All of them, those that are down last."""
        now = self._clock()
        return sorted(self._urls, key=lambda url: self._down_until.get(url, now) > now)

    def mark_down(self, url: str) -> None:
        """It took no connection, or gave no answer in time."""
        self._down_until[url] = self._clock() + _SKIPPED

    def mark_up(self, url: str) -> None:
        """It answered."""
        self._down_until.pop(url, None)
