"""What the proxy offers beside the upstreams' own: lazy forms of their images, under tags with a suffix and as referrers.

A plain tag or a digest is never anything but the upstream's. A tag with a suffix is the upstream's own where it has one, else the
lazy form of the image under the tag without it. Whatever is made bears its own digest.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from registry_proxy.config import Lazy
from registry_proxy.errors import ManifestUnknown, NameUnknown, NotSoon, RegistryProxyError, Trouble
from registry_proxy.lazy import soci
from registry_proxy.lazy.terms import Kind, suffixed, terms_for
from registry_proxy.lazy.work.job import Entry, Job, State
from registry_proxy.lazy.work.queue import Priority, Queue
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Reference, Repository, SourceHost, Tag
from registry_proxy.pull.background import Background
from registry_proxy.pull.blobs import Doorkeeper
from registry_proxy.pull.lazy_images import Home, LazyImages, Offer, Originals, Unfinished
from registry_proxy.pull.manifests import ServedManifest
from registry_proxy.sources.base import BlobPlace
from registry_proxy.tiers.records import Records
from registry_proxy.tiers.shelf import Shelf

_log = structlog.get_logger()

_SOON: Final = 2.0
"""Seconds that an answer with referrers may wait for one that is being made: SOCI waits three for headers."""

_AGAIN: Final = 1.0
"""Seconds until SOCI asks again for an index that is being made: it does so eight times, which is some 25 seconds."""

_PATIENCE: Final = 5.0
"""Seconds that an upstream has to say that it has a tag with a suffix itself, where there is a lazy form that could be served."""

_PACE: Final = 40e6
"""Bytes of a layer per second, to tell a client when to come back: a guess is enough."""

_REMEMBERED: Final = 1024
_WATCHED: Final = 65536
_EACH: Final = 16
"""Jobs, for the newest repositories, that are made as soon as a layer is here; a base layer may be in thousands."""

_Key = tuple[Kind, SourceHost, Repository, Digest]


class ShelfDoor:
    """A doorkeeper who knows what was made here: it belongs to the repositories that it was made for, and nobody asks upstream."""

    def __init__(self, door: Doorkeeper, shelf: Shelf) -> None:
        self._door = door
        self._shelf = shelf

    async def admit(self, place: BlobPlace, *, certain: bool) -> tuple[int, bool]:
        """See ``Doorkeeper``."""
        size = self._shelf.size_at(place.upstream, place.repository, place.digest)
        return (size, True) if size is not None else await self._door.admit(place, certain=certain)

    async def proved(self, place: BlobPlace, size: int, *, told: bool) -> None:
        """See ``Doorkeeper``."""
        await self._door.proved(place, size, told=told)

    async def contested(self, place: BlobPlace) -> None:
        """See ``Doorkeeper``."""
        await self._door.contested(place)

    async def may_share(self, place: BlobPlace) -> bool:
        """See ``Doorkeeper``."""
        return await self._door.may_share(place)


class Offers:
    """Manifests, with the lazy ones among them."""

    def __init__(
        self, originals: Originals, images: LazyImages, queue: Queue, records: Records, settings: Lazy
    ) -> None:
        self._originals = originals
        self._images = images
        self._queue = queue
        self._records = records
        self._settings = settings
        self._offers: OrderedDict[_Key, Offer] = OrderedDict()
        self._eager: dict[tuple[SourceHost, Repository], tuple[Kind, ...]] = {}
        self._noticed: OrderedDict[_Key, None] = OrderedDict()
        self._watched: OrderedDict[str, list[Job]] = OrderedDict()
        self._background = Background("lazy.not_noticed")

    async def get(
        self, upstream: SourceHost, repository: Repository, reference: Reference, *, no_cache: bool = False
    ) -> ServedManifest:
        """The manifest; see ``Manifests.get``. Raises NotSoon for a lazy image that is being made."""
        asked = None if isinstance(reference, Digest) else suffixed(self._settings, reference)
        if asked is None or self._home(upstream, repository).terms.readiness(asked[0]) == "off":
            served = await self._originals.get(upstream, repository, reference, no_cache=no_cache)
            self._notice(upstream, repository, served)
            return served
        theirs = asyncio.create_task(self._originals.get(upstream, repository, reference, no_cache=no_cache))
        try:
            done, _ = await asyncio.wait({theirs}, timeout=_PATIENCE)
            ready = None if done else await self._ready(*asked, upstream, repository, reference)
            return await theirs if ready is None else ready
        except (ManifestUnknown, NameUnknown, Trouble) as error:
            return await self._lazy(*asked, upstream, repository, error, no_cache=no_cache)
        finally:
            theirs.cancel()
            await asyncio.gather(theirs, return_exceptions=True)

    def at_hand(self, upstream: SourceHost, repository: Repository, reference: Reference) -> ServedManifest | None:
        """The manifest as the upstream has it, if that takes no waiting; see ``Manifests.at_hand``."""
        served = self._originals.at_hand(upstream, repository, reference)
        if served is not None:
            self._notice(upstream, repository, served)
        return served

    def good_for(self, upstream: SourceHost, repository: Repository, reference: Reference) -> float:
        """Seconds in which what has just been answered may be answered again without asking here."""
        own = self._originals.good_for(upstream, repository, reference)
        asked = None if own or isinstance(reference, Digest) else suffixed(self._settings, reference)
        return own if asked is None else self._originals.good_for(upstream, repository, asked[1])

    async def referrers(
        self, upstream: SourceHost, repository: Repository, digest: Digest, artifact_type: str | None
    ) -> list[dict[str, Any]]:
        """The SOCI index of an image manifest, if it is ready. Never raises Trouble.

        Who asks for it by its type waits a little, and, where one is to wait, gets NotSoon while it is being made: the snapshotter comes
        back eight times, but takes an empty list for good.
        """
        home = self._home(upstream, repository)
        if artifact_type not in (None, soci.INDEX_V1) or home.terms.soci == "off":
            return []
        is_late = False
        try:
            original = await self._originals.get(upstream, repository, digest)
            found = await self._images.referrer(home, original)
            if isinstance(found, Unfinished) and artifact_type is not None:
                entries = await self._made(found.jobs, min(_SOON, self._settings.wait))
                is_late = home.terms.unready == "wait" and not all(entry.over.is_set() for entry in entries)
                found = await self._images.referrer(home, original)
        except RegistryProxyError as error:
            _log.debug("lazy.no_referrer", digest=str(digest), error=str(error))
            return []
        if not isinstance(found, Unfinished):
            return [soci.referrer(found.body)]
        if is_late:
            raise NotSoon("the SOCI index of this image is being made", _AGAIN)
        return []

    def verified(self, digest: Digest) -> None:
        """A blob has just been found right: what was to be made of it as soon as it is here is made now."""
        jobs = self._watched.pop(str(digest), None)
        if jobs:
            self._background.start(self._ensure_all(jobs))

    async def close(self) -> None:
        """End what nobody waits for."""
        await self._background.close()

    # --- a tag with a suffix -------------------------------------------------------------------------------------------

    async def _lazy(
        self,
        kind: Kind,
        tag: Tag,
        upstream: SourceHost,
        repository: Repository,
        error: RegistryProxyError,
        *,
        no_cache: bool,
    ) -> ServedManifest:
        """The lazy form of what a plain tag is; ``error``: what the upstream said of the tag with the suffix."""
        home = self._home(upstream, repository)
        try:
            original = await self._originals.get(upstream, repository, tag, no_cache=no_cache)
        except RegistryProxyError:
            raise error from None
        offer = await self._offered(kind, home, original)
        if offer is None:
            return original
        return _served(offer, original)

    async def _ready(
        self, kind: Kind, tag: Tag, upstream: SourceHost, repository: Repository, asked: Reference
    ) -> ServedManifest | None:
        """The lazy form of what a plain tag is, if all of it has been made, and the upstream is not known to have what was asked for."""
        if await self._records.tags.get(self._records.tag_key(upstream, repository, str(asked))) is not None:
            return None
        home = self._home(upstream, repository)
        try:
            original = await self._originals.get(upstream, repository, tag)
            found = await self._images.offer(kind, home, original)
        except RegistryProxyError:
            return None
        return None if isinstance(found, Unfinished) else _served(found, original)

    async def _offered(self, kind: Kind, home: Home, original: ServedManifest) -> Offer | None:
        """The offer, made now if need be; None for the original instead. Raises ManifestUnknown, NotSoon."""
        key = (kind, home.upstream, home.repository, original.digest)
        known = self._offers.get(key)
        if known is not None and await self._images.whole(home, known):
            return known
        found = await self._images.offer(kind, home, original)
        if isinstance(found, Unfinished):
            wait = self._settings.wait if home.terms.unready == "wait" else 0.0
            entries = await self._made(found.jobs, wait)
            found = await self._images.offer(kind, home, original)
            if isinstance(found, Unfinished):
                self._unready(home, entries)
                return None
        self._offers[key] = found
        while len(self._offers) > _REMEMBERED:
            self._offers.popitem(last=False)
        return found

    def _unready(self, home: Home, entries: list[Entry]) -> None:
        """What the first request gets, by policy: the original by returning."""
        match home.terms.unready:
            case "original":
                return
            case "not-found":
                raise ManifestUnknown(f"a lazy form of this image of {home.repository} is being made")
        failed = next((entry for entry in entries if entry.state in (State.FAILED, State.CANCELLED)), None)
        if failed is not None:
            own = (failed.job.upstream, failed.job.repository) == (home.upstream, home.repository)
            said = failed.error if own else ""  # elsewhere it names what is there
            raise NotSoon(f"layer {failed.job.digest} was not made lazy: {said or failed.state}", 60.0)
        left = sum(entry.job.size - entry.taken for entry in entries if not entry.over.is_set())
        raise NotSoon("a lazy form of this image is being made", min(max(left / _PACE, 1.0), 60.0))

    async def _made(self, jobs: tuple[Job, ...], seconds: float) -> list[Entry]:
        """Have these made, and wait for them, but no longer than this."""
        entries = [await self._queue.ensure(job) for job in jobs]
        waiting = asyncio.gather(*(entry.over.wait() for entry in entries))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(waiting, seconds)
        return entries

    # --- eagerly -------------------------------------------------------------------------------------------------------

    def _notice(self, upstream: SourceHost, repository: Repository, served: ServedManifest) -> None:
        """An image is being pulled: if it is to be made lazy without being asked for, its layers are looked out for."""
        for kind in self._eager_kinds(upstream, repository):
            key = (kind, upstream, repository, served.digest)
            if key not in self._noticed:
                home = self._home(upstream, repository)
                self._noticed[key] = None
                while len(self._noticed) > _REMEMBERED:
                    self._noticed.popitem(last=False)
                self._background.start(self._look_out(kind, home, served))

    def _eager_kinds(self, upstream: SourceHost, repository: Repository) -> tuple[Kind, ...]:
        """The forms that are made without being asked for; kept, since every manifest that is served asks."""
        kinds = self._eager.get((upstream, repository))
        if kinds is None:
            terms = self._home(upstream, repository).terms
            kinds = tuple(kind for kind in Kind if terms.readiness(kind) == "eager")
            if len(self._eager) >= _REMEMBERED:
                self._eager.clear()
            self._eager[upstream, repository] = kinds
        return kinds

    async def _look_out(self, kind: Kind, home: Home, served: ServedManifest) -> None:
        for job in await self._images.jobs(kind, home, served):
            if await self._records.verified.get(job.digest) is not None:
                await self._queue.ensure(job, Priority.EAGER)
            else:
                jobs = self._watched.setdefault(job.digest, [])
                if job not in jobs:
                    jobs.append(job)
                    del jobs[:-_EACH]
                while len(self._watched) > _WATCHED:
                    self._watched.popitem(last=False)

    async def _ensure_all(self, jobs: list[Job]) -> None:
        for job in jobs:
            await self._queue.ensure(job, Priority.EAGER)

    def _home(self, upstream: SourceHost, repository: Repository) -> Home:
        return Home(upstream, repository, terms_for(self._settings, upstream, repository))


def _served(offer: Offer, original: ServedManifest) -> ServedManifest:
    return ServedManifest(offer.digest, offer.media_type, offer.body, original.stale, "store")


def lazy_stats(queue: Queue, shelf: Shelf, private: Callable[[str], bool]) -> Mapping[str, object]:
    """What ``/stats`` shows of lazy images. ``private``: of which upstreams no names are shown."""
    return {
        "jobs": queue.stats(private),
        "states": {str(state): n for state, n in queue.states().items()},
        **shelf.stats(),
    }
