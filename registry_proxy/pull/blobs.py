"""Blobs: from where one lives to something that can be read."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol
from weakref import WeakValueDictionary

import msgspec
import structlog

from registry_proxy.config import Policy, Upstream
from registry_proxy.config.values import VerifyChunks
from registry_proxy.errors import BlobUnknown, Denied, RegistryProxyError, Trouble
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.ranges import Part
from registry_proxy.pull.background import Background
from registry_proxy.pull.flights import BlobFlights
from registry_proxy.pull.heart import Heart
from registry_proxy.pull.hints import Hints
from registry_proxy.pull.inspection import Inspection
from registry_proxy.pull.inspections import Inspections
from registry_proxy.pull.landing import BlobLanding
from registry_proxy.pull.orphans import Orphans
from registry_proxy.pull.pieces import Piece
from registry_proxy.pull.reader import Reader, own_bytes
from registry_proxy.sources.base import BlobPlace, Source
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.tiers.records import Records
from registry_proxy.tiers.schema import TocHint
from registry_proxy.tiers.stack import NO_TIERS, Stack, TierBlob
from registry_proxy.tiers.store import ChunkStore

_log = structlog.get_logger()

_OPEN_BLOBS = 4096
"""Blobs whose size and permission are kept at hand."""


class Doorkeeper(Protocol):
    """Who may read what (the ``access`` room)."""

    async def admit(self, place: BlobPlace, *, certain: bool) -> tuple[int, bool]:
        """The size of a blob that may be read at that place, and whether that is a fact; if not, it is what the
        repository's own manifest claims, and nothing but a fetch from that repository may serve it.

        ``certain``: ask the upstream rather than believe a manifest. Raises BlobUnknown, Denied or Trouble.
        """

    async def proved(self, place: BlobPlace, size: int, *, told: bool) -> None:
        """The repository itself has just begun to send this blob. ``told``: and has said that it has so many bytes; if not, that is still
        what its manifest claims."""

    async def contested(self, place: BlobPlace) -> None:
        """The size of this blob, as it was proved, is not what its repository sends: believe it no longer."""

    async def may_share(self, place: BlobPlace) -> bool:
        """True if this blob may come from what is shared with others: private content never does."""


class OpenBlob:
    """A blob that its reader may read, of known size.

    ``certain``: the repository itself has said that it has it; if not, nothing but a fetch from there may serve it.
    """

    def __init__(
        self,
        place: BlobPlace,
        size: int,
        flights: BlobFlights,
        store: ChunkStore,
        read_ahead: int,
        *,
        certain: bool = True,
    ) -> None:
        self.place = place
        self.digest = place.digest
        self.size = size
        self.certain = certain
        self.flights = flights
        self._store = store
        self._read_ahead = read_ahead

    @property
    def chunk_size(self) -> int:
        """Bytes of each of its chunks but the last."""
        return self.flights.grid.chunk

    @property
    def verified(self) -> bool:
        """True if the digest of all its bytes was right, and each chunk that comes is compared with what it was then."""
        return self.flights.landing.verified

    @property
    def settled(self) -> bool:
        """False if it is complete and not verified, as after a crash, or if its chunks are to be compared before they are served:
        that is a reader's work."""
        if self.flights.inspection is not None and self.flights.held_back:
            return False
        return self.verified or bool(self._store.missing(self.digest, self.flights.grid))

    def fetch_here(self) -> None:
        """Have what is missing fetched from this repository from now on: somebody has just been let in here."""
        self.flights.place = self.place

    def hit(self, span: Span) -> Piece | None:
        """The span as one piece, if it lies in one chunk that is here now; the caller closes the chunk. Never waits."""
        flights = self.flights
        index = span.start // flights.grid.chunk
        base = index * flights.grid.chunk
        if span.stop > base + flights.grid.chunk or span.start == span.stop:
            return None
        if flights.inspection is not None:
            self._begin(flights.inspection)
        if not self.settled:
            return None
        chunk = self._store.open_chunk(self.digest, flights.grid, index)
        return Piece(chunk, span.start - base, span.stop - base, "store") if chunk is not None else None

    def read(self, parts: Sequence[Part], sent: Mapping[int, bytes] | None = None) -> Reader:
        """A reader of these parts, to be used as an async context manager.

        ``sent``: of a whole answer that goes on here, the sha-256 of each chunk that has gone out before.
        """
        inspection = self.flights.inspection
        if inspection is not None and sent is None and (len(parts) > 1 or len(parts[0].span) < self.size):
            self._begin(inspection)
        return Reader(self.flights, parts, self._read_ahead, sent)

    def _begin(self, inspection: Inspection) -> None:
        """Ranges of it are read: from now on what is here of it is compared with its table of contents."""
        if inspection.idle:
            inspection.begin(partial(own_bytes, self.flights))


class Blobs:
    """Every blob that can be read through this instance."""

    def __init__(
        self,
        doorkeeper: Doorkeeper,
        store: ChunkStore,
        records: Records,
        sources: Sequence[Source],
        upstreams: Mapping[SourceHost, Upstream],
        policy: Policy,
        metrics: Metrics,
        tiers: Stack = NO_TIERS,
        verify_chunks: VerifyChunks = "behind",
    ) -> None:
        self._doorkeeper = doorkeeper
        self._tiers = tiers
        self._store = store
        self._records = records
        self._upstreams = upstreams
        self._policy = policy
        self._metrics = metrics
        self._hints = Hints(records)
        self._open: OrderedDict[BlobPlace, OpenBlob] = OrderedDict()
        self._flights: WeakValueDictionary[tuple[Digest, int], BlobFlights] = WeakValueDictionary()
        self._background = Background("blobs.background_failed")
        self._noting = asyncio.Lock()  # what is contested has perhaps just been proved: one after the other
        self._listeners: list[Callable[[Digest], None]] = []
        self._heart = Heart(
            store=store,
            sources=sources,
            policy=policy,
            metrics=metrics,
            orphans=Orphans(policy.orphan_budget),
            flying=set(),
            aside=self._aside if tiers else None,
            delivered=lambda place, size, told: self._background.start(self._proved(place, size, told=told)),
            contested=lambda place: self._background.start(self._contested(place)),
            learned_rangeless=lambda place: self._background.start(self._start_siblings(place)),
        )
        self._inspections = Inspections(verify_chunks, store, metrics, self._whole, self._doubted)

    def apply(self, policy: Policy) -> None:
        """Hold this policy for flights that start from now on, and for blobs that are opened from now on."""
        self._policy = self._heart.policy = policy
        self._open.clear()

    async def open(self, place: BlobPlace, *, certain: bool = False) -> OpenBlob:
        """A blob of this repository. ``certain``: only if the repository itself has said that it has it.

        Raises BlobUnknown, Denied or Trouble.
        """
        known = self._open.get(place)
        if known is not None:
            self._open.move_to_end(place)
            known.fetch_here()
            if known.flights.inspection is None and not self._inspections.off:
                self._inspect(known.flights, place, self._records.tocs.peek(self._toc_key(place)))
            return known
        size, proved = await self._doorkeeper.admit(place, certain=certain)
        if not proved and self._store.missing(place.digest, self._store.grid(size)) < self._store.grid(size).count:
            size, proved = await self._doorkeeper.admit(place, certain=True)
        flights = await self._blob_flights(place, size)
        blob = OpenBlob(place, size, flights, self._store, self._policy.read_ahead, certain=proved)
        if proved:
            self._remember(blob)
            blob.fetch_here()
        return blob

    def opened(self, place: BlobPlace) -> OpenBlob | None:
        """A blob of this repository that was opened before, and is known to be there."""
        return self._open.get(place)

    async def open_anywhere(self, digest: Digest, *, certain: bool = False) -> OpenBlob:
        """A blob that was asked for without an upstream: from the first of its known places that admits it, none of them guarded."""
        said: RegistryProxyError = BlobUnknown(
            f"{digest} was not seen yet in any repository; name its registry with ?ns="
        )
        for place in await self._hints.places(digest):
            upstream = self._upstreams.get(place.upstream)
            if upstream is None or not upstream.for_everybody:
                continue
            try:
                return await self.open(place, certain=certain)
            except (BlobUnknown, Denied, Trouble) as error:
                said = error
        raise said

    async def places(self, digest: Digest) -> tuple[BlobPlace, ...]:
        """The repositories where this blob was named or found, the newest first."""
        return await self._hints.places(digest)

    def when_verified(self, listener: Callable[[Digest], None]) -> None:
        """Have ``listener`` told of every blob that has just been found complete and right."""
        self._listeners.append(listener)

    def _announce(self, digest: Digest) -> None:
        for listener in self._listeners:
            listener(digest)

    async def close(self) -> None:
        """Stop every flight; what has landed stays."""
        for flights in list(self._heart.flying):
            await flights.close()
        await self._background.close()
        await self._inspections.close()

    def _remember(self, blob: OpenBlob) -> None:
        self._open[blob.place] = blob
        while len(self._open) > _OPEN_BLOBS:
            self._open.popitem(last=False)

    async def _blob_flights(self, place: BlobPlace, size: int) -> BlobFlights:
        """The flights of a blob; keyed by size too, so that a manifest that lies about it harms only its own readers."""
        verified = await self._records.verified.get(str(place.digest))
        hint = None if self._inspections.off else await self._records.tocs.get(self._toc_key(place))
        flights = self._flights.get((place.digest, size))
        if flights is None:
            grid = self._store.grid(size)
            landing = BlobLanding(
                place.digest, grid, self._store, self._records, self._metrics, verified, self._announce
            )
            flights = BlobFlights(place, grid, landing, self._heart)
            self._flights[place.digest, size] = flights
        self._inspect(flights, place, hint)
        return flights

    def _toc_key(self, place: BlobPlace) -> str:
        return self._records.digest_key(place.upstream, place.repository, place.digest)

    def _inspect(self, flights: BlobFlights, place: BlobPlace, hint: TocHint | None) -> None:
        """Have a blob compared with what this repository says about its table of contents; unless another has said so already."""
        known = flights.inspection
        if hint is None:
            return
        if known is None or (known.distrusted and known.hint != hint):
            flights.inspection = self._inspections.of(place, flights.landing, hint)

    def _doubted(self, digest: Digest) -> None:
        for source in self._heart.sources:
            source.doubt(digest)

    async def _whole(self, place: BlobPlace, size: int) -> bytes:
        """A whole blob of so many bytes, verified."""
        blob = await self.open(place)
        if blob.size != size:
            raise BlobUnknown(f"{place.digest} has {blob.size} bytes where a manifest says {size}")
        return await own_bytes(blob.flights, Span(0, blob.size))

    async def _aside(self, place: BlobPlace, size: int) -> TierBlob | None:
        return await self._tiers.find(place.digest, size) if await self._doorkeeper.may_share(place) else None

    async def _proved(self, place: BlobPlace, size: int, *, told: bool) -> None:
        async with self._noting:
            await self._doorkeeper.proved(place, size, told=told)
            await self._records.add_place(place.digest, place.upstream, place.repository)
            flights = self._flights.get((place.digest, size))
            if flights is not None and place not in self._open:
                self._remember(OpenBlob(place, size, flights, self._store, self._policy.read_ahead))

    async def _contested(self, place: BlobPlace) -> None:
        """Whoever comes next asks anew how large this blob is; a size that was wrong once must not be believed for ever."""
        async with self._noting:
            for known in [known for known in self._open if known.digest == place.digest]:
                del self._open[known]
            await self._doorkeeper.contested(place)

    async def _start_siblings(self, place: BlobPlace) -> None:
        """A lazy client reads the end of every layer: on a range-less upstream their downloads have to start now.

        Smallest first, within the budget of one image.
        """
        settings = self._upstreams.get(place.upstream)
        if settings is None or not settings.eager_siblings:
            return
        budget: int = self._policy.sibling_budget
        for sibling in await self._hints.siblings(place):
            if sibling.size > budget:
                return
            budget -= sibling.size
            flights = await self._blob_flights(msgspec.structs.replace(place, digest=sibling.digest), sibling.size)
            flights.adopt()
