"""The read-only places on this machine that may hold blobs, in order, beside the store: whole blobs, read slice by slice."""

from collections.abc import Sequence
from typing import Final, Protocol

from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span


class TierBlob(Protocol):
    """A blob in a tier, open for one reader. ``tier``: its name, for the log line and the metrics."""

    @property
    def tier(self) -> str:
        """The tier's name."""

    async def read(self, span: Span) -> bytes:
        """Exactly these bytes, within the tier's time limit; raises TierFailed."""

    def reject(self) -> None:
        """A reader has hashed every byte, and they are not those of the digest: it is not found again."""

    def close(self) -> None:
        """Give it back. Never waits."""


class Tier(Protocol):
    """One such place. It may fail and hang as it likes: none of that reaches a reader but as a miss."""

    async def find(self, digest: Digest, size: int) -> TierBlob | None:
        """The blob, if it is here with that size and the tier works; the caller closes it. Takes a moment at the most."""

    def stats(self) -> dict[str, object]:
        """What ``/stats`` shows of it."""

    async def close(self) -> None:
        """Let go of everything; never waits for a file system."""


class Stack:
    """The tiers in order; false if there is none."""

    def __init__(self, tiers: Sequence[Tier] = ()) -> None:
        self._tiers = tiers

    def __bool__(self) -> bool:
        return bool(self._tiers)

    async def find(self, digest: Digest, size: int) -> TierBlob | None:
        """The blob from the first tier that has it; the caller closes it."""
        for tier in self._tiers:
            found = await tier.find(digest, size)
            if found is not None:
                return found
        return None

    def stats(self) -> list[dict[str, object]]:
        """What ``/stats`` shows of each tier."""
        return [tier.stats() for tier in self._tiers]

    async def close(self) -> None:
        """Let go of all."""
        for tier in self._tiers:
            await tier.close()


NO_TIERS: Final = Stack()
