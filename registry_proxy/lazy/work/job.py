"""What is to be made of a layer, and how far that is."""

import asyncio
from enum import StrEnum

import msgspec

from registry_proxy.lazy.terms import Kind


class Job(msgspec.Struct, frozen=True):
    """The layer ``digest`` of a repository is to become ``kind``. ``size``: bytes; ``span_size``: of a zTOC, else 0."""

    kind: Kind
    upstream: str
    repository: str
    digest: str
    size: int
    media_type: str
    span_size: int = 0

    @property
    def variant(self) -> str:
        """All that decides what comes of a layer, as a name: ``estargz``, ``soci-4194304``."""
        return f"{self.kind}-{self.span_size}" if self.span_size else str(self.kind)

    @property
    def id(self) -> str:
        """The same for all jobs that would make the same thing, whichever repository has the layer."""
        return f"{self.variant}-{self.digest.rpartition(':')[2][:16]}"


class State(StrEnum):
    """Where a job is. ``refused``: nothing can be made of this layer; ``failed``: it was tried often enough."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"


OVER = frozenset({State.DONE, State.REFUSED, State.FAILED, State.CANCELLED})


class Entry:
    """A job in the queue. ``taken``: bytes of the layer read so far; ``began``, ``ended``: by the queue's clock; ``error``: for a
    person, what went wrong last; ``others``: the same job for other repositories, whose turn comes if this one's layer cannot be had;
    ``filed``: its file has been written, and it stands in line."""

    __slots__ = ("attempts", "began", "ended", "error", "filed", "job", "others", "over", "priority", "state", "taken")

    def __init__(self, job: Job, priority: int) -> None:
        self.job = job
        self.priority = priority
        self.state = State.WAITING
        self.taken = 0
        self.attempts = 0
        self.began = 0.0
        self.ended = 0.0
        self.error = ""
        self.others: list[Job] = []
        self.filed = False
        self.over = asyncio.Event()

    def row(self, *, private: bool) -> dict[str, object]:
        """What ``/stats`` shows of it, to anybody; ``private``: no word of what is in the upstream."""
        return {
            "id": self.job.id,
            "image": self.job.upstream if private else f"{self.job.upstream}/{self.job.repository}",
            "layer": "" if private else self.job.digest,
            "state": str(self.state),
            "taken_bytes": self.taken,
            "size_bytes": self.job.size,
            "error": "the log has it" if private and self.error else self.error,
        }
