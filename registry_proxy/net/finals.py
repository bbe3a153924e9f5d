"""Where blobs were found after redirects: short-lived signed URLs, so that not every request crosses the registry."""

import time
from collections import OrderedDict
from collections.abc import Callable

_LIFE = 60.0
"""Seconds; below what registries sign for (Docker Hub, ECR and GitLab: minutes). A 403 from one that is over renews it anyway."""
_MOST = 4096


class Finals:
    """Final URLs by (method, URL asked). S3 signs for one method, so a URL for GET is none for HEAD."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()

    def get(self, method: str, url: str) -> str | None:
        """Where this was found a short while ago, or None."""
        final, until = self._kept.get((method, url), ("", 0.0))
        return final if until > self._clock() else None

    def remember(self, method: str, url: str, final: str) -> None:
        """It was found there."""
        self._kept[method, url] = (final, self._clock() + _LIFE)
        self._kept.move_to_end((method, url))
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)

    def forget(self, method: str, url: str) -> None:
        """It is not there any more."""
        self._kept.pop((method, url), None)
