"""What the flights of all blobs share."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from registry_proxy.config import Policy
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.readahead import Waits
from registry_proxy.pull.orphans import Orphans
from registry_proxy.sources.base import BlobPlace, Source
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.tiers.stack import TierBlob
from registry_proxy.tiers.store import ChunkStore


class Flying(Protocol):
    """The flights of one blob, as long as there are any."""

    async def close(self) -> None:
        """Stop everything that flies."""


@dataclass(slots=True)
class Heart:
    """What the flights of all blobs share. ``policy`` may change meanwhile, nothing else does."""

    store: ChunkStore
    sources: Sequence[Source]
    policy: Policy
    metrics: Metrics
    orphans: Orphans
    flying: set[Flying]  # keeps those with running flights alive
    aside: Callable[[BlobPlace, int], Awaitable[TierBlob | None]] | None
    delivered: Callable[[BlobPlace, int, bool], None]
    contested: Callable[[BlobPlace], None]
    learned_rangeless: Callable[[BlobPlace], None]
    waits: defaultdict[SourceHost, Waits] = field(default_factory=lambda: defaultdict(Waits))

    @property
    def asked(self) -> Sequence[Source]:
        """The sources that a flight may ask."""
        return () if self.policy.offline else self.sources
