"""What a flight fetches from.

A source answers one exchange: "these bytes of that blob, please", with a delivery whose span says what really comes. A ranged
source delivers the span asked for; a range-less one delivers the whole blob from byte 0 (docs/architecture.md, "Sources").
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from enum import IntEnum
from typing import Protocol

import msgspec

from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.plan.chunks import Span


class Priority(IntEnum):
    """Who goes first where connections are scarce; smaller is sooner."""

    FOREGROUND = 0
    PREFETCH = 1


class Urgency:
    """How urgent a fetch is; it may become more urgent while it waits for a connection, or be given up.

    Whoever queues the fetch sets ``raised`` to be told, and ``withdraw`` for as long as it stands in the queue.
    """

    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        self.raised: Callable[[], None] | None = None
        self.withdraw: Callable[[], None] | None = None

    def raise_to(self, priority: Priority) -> None:
        """Make it at least that urgent."""
        if priority < self.priority:
            self.priority = priority
            if self.raised is not None:
                self.raised()

    def give_up(self) -> None:
        """Leave the queue, if it stands in one."""
        if self.withdraw is not None:
            self.withdraw()


class BlobPlace(msgspec.Struct, frozen=True, cache_hash=True, gc=False):
    """Where a blob lives: a repository of an upstream, named by its source host."""

    upstream: SourceHost
    repository: Repository
    digest: Digest


class Delivery(Protocol):
    """Bytes under way. ``span``: what is coming; ``total``: bytes of the whole blob, None if the answer does not say; ``origin``: the final host that
    sends them; ``proves``: the repository itself sends them, which makes it a fact that it has the blob; ``waited``: seconds from
    the request to the answer's headers, 0 where requests overlap anyway."""

    span: Span
    total: int | None
    origin: str
    ranged: bool
    proves: bool
    waited: float

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes of ``span`` in order, in pieces of any size; raises Trouble unless they are exactly that many."""


class Source(Protocol):
    """One place beyond this instance that chunks come from."""

    name: str

    def open(
        self, place: BlobPlace, span: Span | None, size: int | None, urgency: Urgency
    ) -> AbstractAsyncContextManager[Delivery]:
        """Ask for ``span`` (None: everything) of a blob of ``size`` bytes (None: not known).

        Raises on entry: BlobUnknown, Denied, or Trouble in any form; the delivery's own iteration raises Trouble. NotSoon (from
        either): the bytes are on their way to the source, and asking another one would buy them twice.
        """

    def doubt(self, digest: Digest) -> None:
        """What was put together of this blob, perhaps from this source, was wrong."""
