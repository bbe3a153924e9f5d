"""What a fake server was asked and what it really sent, so that a test can say "each byte once"."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span


@dataclass(frozen=True)
class Asked:
    """One request as it came in. ``server``: registry, storage or token; ``kind``: ping, manifest, blob, tags, …"""

    server: str
    kind: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]

    @property
    def range(self) -> str | None:
        """The Range header, or None."""
        return self.headers.get("Range")


@dataclass
class Ledger:
    """The requests in order, and the spans of each blob that were written to a socket."""

    requests: list[Asked] = field(default_factory=list)
    spans: defaultdict[Digest, list[Span]] = field(default_factory=lambda: defaultdict(list))
    running: int = 0
    most_running: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def asked(self, kind: str | None = None, method: str | None = None, server: str | None = None) -> list[Asked]:
        """The requests of a kind (None: any)."""
        return [
            r
            for r in self.requests
            if (kind is None or r.kind == kind)
            and (method is None or r.method == method)
            and (server is None or r.server == server)
        ]

    def note_request(self, asked: Asked) -> None:
        """A request came in."""
        self.requests.append(asked)
        self._tell()

    def note_sent(self, digest: Digest, span: Span) -> None:
        """Bytes ``span`` of a blob were written."""
        self.spans[digest].append(span)
        self._tell()

    async def until_asked(self, count: int, kind: str | None = None, method: str | None = None) -> None:
        """Wait until so many requests of a kind have come in."""
        while len(self.asked(kind, method)) < count:
            await self._changed.wait()

    async def until_sent(self, digest: Digest, count: int) -> None:
        """Wait until so many bytes of a blob have been written."""
        while self.sent(digest) < count:
            await self._changed.wait()

    def sent(self, digest: Digest) -> int:
        """Bytes of a blob written so far, each as often as it was written."""
        return sum(len(span) for span in self.spans[digest])

    def distinct(self, digest: Digest) -> int:
        """Bytes of a blob written at least once."""
        total = reached = 0
        for span in sorted(self.spans[digest]):
            total += max(span.stop - max(span.start, reached), 0)
            reached = max(reached, span.stop)
        return total

    def most_often(self, digest: Digest) -> int:
        """How often the byte written most often was written."""
        edges = sorted([(s.start, 1) for s in self.spans[digest]] + [(s.stop, -1) for s in self.spans[digest]])
        depth = most = 0
        for _, step in edges:
            depth += step
            most = max(most, depth)
        return most

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
