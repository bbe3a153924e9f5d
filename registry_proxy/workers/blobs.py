"""Blobs as a server process has them: what lies in the store is served from there, the rest is asked of the fetcher.

The fetcher says once that a blob may be read; what it says holds as long as it lives. A blob that is not certain, and the end of a
whole answer that is not verified, are always the fetcher's to give.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.ranges import Part
from registry_proxy.pull.pieces import Piece
from registry_proxy.sources.base import BlobPlace
from registry_proxy.tiers.view import StoreView
from registry_proxy.workers.calls import Granted, Open, OpenAnywhere
from registry_proxy.workers.line import Line
from registry_proxy.workers.reader import RemoteReader

_REMEMBERED: Final = 4096
"""Blobs, and digests that were asked for without an upstream, whose grant is kept at hand."""

_ANYWHERE_FOR: Final = 60.0
"""Seconds in which the newest place of a digest is not asked for again."""


class RemoteBlob:
    """A blob that its reader may read, of known size."""

    def __init__(self, granted: Granted, line: Line, view: StoreView, forget: Callable[[Digest], None]) -> None:
        self._forget = forget
        self.place = granted.place
        self.digest = granted.place.digest
        self.size = granted.size
        self.certain = granted.certain
        self.settled = granted.settled
        self.verified = granted.verified
        self.grid = view.grid(granted.size)
        self.line = line
        self.view = view

    def hit(self, span: Span) -> Piece | None:
        """The span as one piece, if it lies in one chunk that is here now; the caller closes the chunk. Never waits."""
        index = span.start // self.grid.chunk
        base = index * self.grid.chunk
        if not self.settled or span.stop > base + self.grid.chunk or span.start == span.stop:
            return None
        chunk = self.view.open_chunk(self.digest, self.grid, index)
        return Piece(chunk, span.start - base, span.stop - base, "store") if chunk is not None else None

    def learn(self, *, verified: bool) -> None:
        """What the fetcher says of it now."""
        self.verified = self.verified or verified
        self.settled = self.settled or (self.certain and verified)

    def contested(self) -> None:
        """Its size is not what it was said to be: whoever comes next has to ask anew."""
        self._forget(self.digest)

    def read(self, parts: Sequence[Part]) -> RemoteReader:
        """A reader of these parts, to be used as an async context manager."""
        return RemoteReader(self, parts)


class RemoteBlobs:
    """Every blob that can be read through this instance."""

    def __init__(self, line: Line, view: StoreView) -> None:
        self._line = line
        self._view = view
        self._open: OrderedDict[BlobPlace, RemoteBlob] = OrderedDict()
        self._anywhere: OrderedDict[Digest, tuple[RemoteBlob, float]] = OrderedDict()
        line.renewed.append(self._forget)

    async def open(self, place: BlobPlace, *, certain: bool = False) -> RemoteBlob:
        """A blob of this repository. ``certain``: only if the repository itself has said that it has it.

        Raises BlobUnknown, Denied, NotSoon or Trouble.
        """
        known = self._open.get(place)
        if known is not None:
            self._open.move_to_end(place)
            return known
        return self._granted(await self._line.ask(Open(place, certain), Granted))

    def opened(self, place: BlobPlace) -> RemoteBlob | None:
        """A blob of this repository that was opened before, and is known to be there."""
        return self._open.get(place)

    async def open_anywhere(self, digest: Digest, *, certain: bool = False) -> RemoteBlob:
        """A blob that was asked for without an upstream: from the first of its known places that admits it."""
        known = self._anywhere.get(digest)
        if known is not None and monotonic() < known[1]:
            return known[0]
        blob = self._granted(await self._line.ask(OpenAnywhere(digest, certain), Granted))
        if blob.certain:
            self._anywhere[digest] = blob, monotonic() + _ANYWHERE_FOR
            if len(self._anywhere) > _REMEMBERED:
                self._anywhere.popitem(last=False)
        return blob

    def _granted(self, granted: Granted) -> RemoteBlob:
        blob = RemoteBlob(granted, self._line, self._view, self._contested)
        if blob.certain:
            self._open[blob.place] = blob
            if len(self._open) > _REMEMBERED:
                self._open.popitem(last=False)
        return blob

    def _contested(self, digest: Digest) -> None:
        for place in [place for place in self._open if place.digest == digest]:
            del self._open[place]
        self._anywhere.pop(digest, None)

    def _forget(self) -> None:
        """Another fetcher: it knows nothing of what the last one said."""
        self._open.clear()
        self._anywhere.clear()
