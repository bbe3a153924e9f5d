"""How old a tag may be, and what to do about it."""

from enum import Enum, auto


class Freshness(Enum):
    """What a remembered tag is good for."""

    FRESH = auto()
    STALE = auto()


def freshness(checked_at: float, now: float, fresh_for: float) -> Freshness:
    """Whether a tag checked at ``checked_at`` may be served without asking (all in seconds, wall clock).

    A check that lies in the future (the clock was set back) counts as stale: asking costs one HEAD, believing may cost days.
    """
    return Freshness.FRESH if 0 <= now - checked_at < fresh_for else Freshness.STALE
