"""Docker Hub's account of how many manifests an address or account may still pull."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_VALUE = re.compile(r"([0-9]{1,9})(?:;w=([0-9]{1,9}))?\Z")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """``remaining`` of ``limit`` pulls per ``window`` seconds (None: not said)."""

    limit: int
    remaining: int
    window: int | None


def parse_rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    """What ``ratelimit-limit: 100;w=21600`` and ``ratelimit-remaining`` say; None if they are missing or say something else."""
    limit = _VALUE.match(headers.get("ratelimit-limit", ""))
    remaining = _VALUE.match(headers.get("ratelimit-remaining", ""))
    if limit is None or remaining is None:
        return None
    return RateLimit(int(limit[1]), int(remaining[1]), int(limit[2]) if limit[2] else None)
