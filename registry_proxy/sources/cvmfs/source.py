"""A CVMFS repository as a source: blobs are files at ``/blobs/<algorithm>/<2 hex>/<hex>``."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from registry_proxy.config import CvmfsHttp
from registry_proxy.errors import BlobUnknown, ConfigInvalid, UpstreamBroken
from registry_proxy.net.slots import Slots
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from registry_proxy.sources.base import BlobPlace, Urgency
from registry_proxy.sources.chunk_lists import Shunned
from registry_proxy.sources.cvmfs import letters
from registry_proxy.sources.cvmfs.catalog import Entry, Piece
from registry_proxy.sources.cvmfs.catalogs import Catalogs
from registry_proxy.sources.cvmfs.delivery import CvmfsDelivery
from registry_proxy.sources.cvmfs.objects import MAX_OBJECT, Objects, Wanted
from registry_proxy.sources.cvmfs.repository import Found, Repository
from registry_proxy.sources.cvmfs.servers import Servers
from registry_proxy.sources.cvmfs.trust import Notary, Shelf
from registry_proxy.sources.cvmfs.wire import Fetch
from registry_proxy.sources.cvmfs.workers import Workers
from registry_proxy.telemetry.metrics import Metrics

_CONNECTIONS = 8

_DOUBT = 600.0
"""Seconds for which a blob that turned out wrong is not asked for."""

_UNESCAPED = "/:@,+~[]"
"""What the official client leaves as it is in the path of an external file (cvmfs ``download.cc``, ``EscapeUrl``)."""


@dataclass(frozen=True, slots=True)
class State:
    """How a repository is doing. ``whitelist_expires``: seconds since the epoch; ``servers``: False for one left out for now."""

    revision: int | None
    root: str | None
    whitelist_expires: float | None
    trouble: str | None
    servers: dict[str, bool]


class CvmfsSource:
    """See ``sources.base.Source``. Use it with ``async with``; entering raises ConfigInvalid for a master key that is none.

    ``directory``: its own, for catalogs, letters and temporary files. ``may_share``: whether a blob is for everybody; no other
    is asked for. ``clock``: seconds since the epoch.
    """

    def __init__(
        self,
        settings: CvmfsHttp,
        fetch: Fetch,
        directory: Path,
        *,
        may_share: Callable[[BlobPlace], bool],
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = f"cvmfs-http:{settings.repository}"
        self._settings = settings
        self._directory = directory
        self._clock = clock
        self._workers = Workers()
        self._native = Servers(settings.servers, fetch, self._workers)
        self._external = Servers(settings.external, fetch, self._workers)
        self._catalogs = Catalogs(directory / "catalogs", self._native, self._workers)
        self._objects = Objects(directory, self._workers, Slots(_CONNECTIONS))
        self._may_share = may_share
        self._metrics = metrics
        self._doubted: Shunned[Digest] = Shunned()
        self._repository: Repository

    async def __aenter__(self) -> Self:
        """Read the master keys and make the directory; nothing is fetched before it is asked for."""
        try:
            keys = await self._workers.run(self._prepare)
        except BaseException:
            self._workers.close()
            raise
        settings = self._settings
        self._repository = Repository(
            settings.repository,
            Notary(settings.repository, keys, self._native, self._clock),
            self._native,
            self._catalogs,
            Shelf(self._directory / "letters"),
            self._workers,
            settings.blacklist,
            settings.patience,
            self._clock,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what runs in the background and let go of everything."""
        await self._repository.close()
        self._objects.close()
        self._workers.close()

    def state(self) -> State:
        """How it is doing."""
        trusted, trouble = self._repository.trusted, self._repository.trouble
        return State(
            revision=trusted.manifest.revision if trusted else None,
            root=str(trusted.manifest.root) if trusted else None,
            whitelist_expires=trusted.whitelist.expires if trusted else None,
            trouble=str(trouble) if trouble else None,
            servers=self._native.states() | self._external.states(),
        )

    def doubt(self, digest: Digest) -> None:
        """What was put together of this blob, perhaps from here, was wrong: somebody may have published something else as it."""
        self._doubted.add(digest, _DOUBT)

    async def refresh(self) -> None:
        """Look for a new revision now; raises Trouble if none can be believed and none is held."""
        await self._repository.refresh()

    @asynccontextmanager
    async def open(
        self, place: BlobPlace, span: Span | None, size: int | None, urgency: Urgency
    ) -> AsyncIterator[CvmfsDelivery]:
        """Ask for ``span`` (None: everything) of a blob of ``size`` bytes (None: not known).

        Raises on entry: BlobUnknown, or Trouble in any form; the delivery's own iteration raises Trouble.
        """
        if place.digest in self._doubted or not self._may_share(place):
            raise BlobUnknown(f"{self.name} is not asked for {place.digest}")
        found = await self._repository.find(place.digest)
        self._check(found, place, size)
        total = found.entry.size
        wanted = Span(0, total) if span is None else Span(min(span.start, total), min(span.stop, total))
        if span is not None and len(span) and not len(wanted):
            raise UpstreamBroken(f"{self.name}: nothing at byte {span.start} of {total}")
        delivery = CvmfsDelivery(
            found,
            wanted,
            urgency,
            catalogs=self._catalogs,
            objects=self._objects,
            workers=self._workers,
            wanted=self._object,
            delivered=partial(self._metrics.fetched, self.name),
        )
        try:
            await delivery.begin()
            yield delivery
        finally:
            await delivery.end()

    def _check(self, found: Found, place: BlobPlace, size: int | None) -> None:
        """Raise unless this file can be delivered as that blob."""
        entry = found.entry
        if size is not None and entry.size != size:
            raise UpstreamBroken(f"{self.name} has {entry.size} bytes as {place.digest}, which has {size}")
        if entry.external and not self._settings.external:
            raise BlobUnknown(f"{place.digest} is external data, and no external server is configured")
        if not entry.chunked and entry.size > MAX_OBJECT:
            raise BlobUnknown(f"{place.digest} was published in one object of {entry.size} bytes, without chunks")

    def _object(self, entry: Entry, piece: Piece | None) -> Wanted:
        """How to get a file's one object, or one of its chunks."""
        digest = entry.hash if piece is None else piece.hash
        span = Span(0, entry.size) if piece is None else piece.span
        if digest is None:
            raise UpstreamBroken(f"{self.name}: no hash for {entry.path}")
        if len(span) > MAX_OBJECT:
            raise UpstreamBroken(f"{self.name}: {entry.path} has a chunk of {len(span)} bytes")
        if entry.external:
            path = quote(entry.path.removeprefix("/"), safe=_UNESCAPED)
            part = None if piece is None else span
            return Wanted(self._external, path, digest, len(span), entry.compressed, part)
        return Wanted(self._native, digest.path("" if piece is None else "P"), digest, len(span), entry.compressed)

    def _prepare(self) -> list[RSAPublicKey]:
        self._catalogs.prepare()
        try:
            return [letters.load_key(path.read_bytes(), str(path)) for path in self._settings.keys]
        except OSError as error:
            raise ConfigInvalid(f"a master key of {self._settings.repository} cannot be read: {error}") from error
