"""What ``check`` finds, as values that can be shown or written as JSON."""

from dataclasses import dataclass
from typing import Literal

Known = Literal["yes", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class Probed:
    """What became of one URL of an upstream. ``authorization``: ``basic``, ``bearer``, ``required`` (of a kind we have no account for),
    ``none``, ``unknown``; ``error``: None if it answers.

    ``ranges`` and ``multi_range`` are unknown unless a blob was asked for; ``seconds``: for the first exchange.
    """

    upstream: str
    url: str
    authorization: str = "unknown"
    account: bool = False
    status: int | None = None
    ranges: Known = "unknown"
    multi_range: Known = "unknown"
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StoreFound:
    """Where the store lies or would lie. ``free`` and ``limit`` in bytes; ``limit`` is the configured one or a fifth of what is free."""

    path: str
    exists: bool
    file_system: str
    free: int
    limit: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class SourceFound:
    """A source beside the upstreams, or a way to one. ``kind``: ``parent``, ``cvmfs-http`` or ``way``; ``told``: what it says of itself;
    ``error``: None if it can be used, else what is wrong and what to do."""

    kind: str
    name: str
    told: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class TierFound:
    """A mounted tier. ``error``: None if it answers."""

    path: str
    error: str | None = None
