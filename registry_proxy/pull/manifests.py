"""Manifests: by digest for ever, by tag under freshness.

A tag moves only once its new manifest is stored. Trouble upstream, or a slow answer, is not the client's trouble while
there is an older manifest: it is served with a warning, and the question goes on in the background.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping

import msgspec
import structlog

from registry_proxy.config import Policy, Upstream
from registry_proxy.errors import ManifestUnknown, NameUnknown, Offline, RegistryProxyError, Trouble
from registry_proxy.net.single import SingleFlight
from registry_proxy.oci import content
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Reference, Repository, SourceHost, Tag
from registry_proxy.plan.freshness import Freshness, freshness
from registry_proxy.pull.hints import Hints
from registry_proxy.sources.registry import FetchedManifest, Registry
from registry_proxy.tiers.records import Records
from registry_proxy.tiers.schema import Fact, ManifestRecord, TagRecord

_log = structlog.get_logger()

_MISSES = 4096
"""Tags known to be missing that are kept in memory."""


class ServedManifest(msgspec.Struct, frozen=True, gc=False):
    """A manifest as it goes to a client. ``stale``: why an old one is served (for the Warning header), or None."""

    digest: Digest
    media_type: str
    body: bytes
    stale: str | None
    tier: str


class Manifests:
    """The manifests of every upstream. ``clock``: the wall clock, in seconds."""

    def __init__(
        self,
        registries: Mapping[SourceHost, Registry],
        upstreams: Mapping[SourceHost, Upstream],
        records: Records,
        policy: Policy,
        clock: Callable[[], float],
    ) -> None:
        self._registries = registries
        self._upstreams = upstreams
        self._records = records
        self._policy = policy
        self._clock = clock
        self._hints = Hints(records)
        self._single: SingleFlight[tuple[SourceHost, Repository, str], ServedManifest] = SingleFlight()
        self._missing: OrderedDict[tuple[SourceHost, Repository, str], float] = OrderedDict()
        self._background: set[asyncio.Task[ServedManifest]] = set()

    def apply(self, policy: Policy) -> None:
        """Hold this policy from the next question on."""
        self._policy = policy

    async def get(
        self, upstream: SourceHost, repository: Repository, reference: Reference, *, no_cache: bool = False
    ) -> ServedManifest:
        """The manifest. ``no_cache``: ask upstream however fresh the tag is.

        Raises ManifestUnknown, NameUnknown, Denied or Trouble.
        """
        if isinstance(reference, Digest):
            return await self._by_digest(upstream, repository, reference)
        return await self._by_tag(upstream, repository, reference, no_cache=no_cache)

    def at_hand(self, upstream: SourceHost, repository: Repository, reference: Reference) -> ServedManifest | None:
        """The manifest, if it is in memory and nobody has to be asked for it."""
        if isinstance(reference, Digest):
            if self._records.facts.peek(self._records.digest_key(upstream, repository, reference)) is None:
                return None
            return self._kept(reference)
        record = self._records.tags.peek(self._records.tag_key(upstream, repository, reference))
        if record is None or self._policy.offline:
            return None
        if freshness(record.checked_at, self._clock(), self._fresh_for(upstream)) is not Freshness.FRESH:
            return None
        return self._kept(Digest.parse(record.digest))

    def _kept(self, digest: Digest) -> ServedManifest | None:
        record = self._records.manifests.peek(str(digest))
        return ServedManifest(digest, record.media_type, record.body, None, "store") if record is not None else None

    def good_for(self, upstream: SourceHost, repository: Repository, reference: Reference) -> float:
        """Seconds in which what has just been answered may be answered again without asking here."""
        if isinstance(reference, Digest):
            return math.inf
        record = self._records.tags.peek(self._records.tag_key(upstream, repository, reference))
        age = 0.0 if record is None else self._clock() - record.checked_at
        return 0.0 if record is None or age < 0 else max(0.0, self._fresh_for(upstream) - age)

    async def close(self) -> None:
        """End the questions that nobody waits for."""
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    # --- by digest ---------------------------------------------------------------------------------------------------

    async def _by_digest(self, upstream: SourceHost, repository: Repository, digest: Digest) -> ServedManifest:
        if await self._records.facts.get(self._records.digest_key(upstream, repository, digest)) is not None:
            stored = await self._stored(digest)
            if stored is not None:
                return stored
        self._not_offline(f"manifest {digest}")
        return await self._single.do(
            (upstream, repository, str(digest)), lambda: self._fetch(upstream, repository, digest)
        )

    async def _stored(self, digest: Digest, stale: str | None = None) -> ServedManifest | None:
        record = await self._records.manifests.get(str(digest))
        return ServedManifest(digest, record.media_type, record.body, stale, "store") if record is not None else None

    async def _fetch(self, upstream: SourceHost, repository: Repository, reference: Reference) -> ServedManifest:
        """Fetch, store, and only then let a tag move."""
        fetched = await self._registries[upstream].get_manifest(repository, reference)
        await self._store(upstream, repository, fetched)
        if not isinstance(reference, Digest):
            await self._move_tag(upstream, repository, reference, fetched.digest, fetched.media_type)
        return ServedManifest(fetched.digest, fetched.media_type, fetched.body, None, "upstream")

    async def _store(self, upstream: SourceHost, repository: Repository, fetched: FetchedManifest) -> None:
        manifest = content.parse_manifest(fetched.body)
        record = ManifestRecord(body=fetched.body, media_type=fetched.media_type, digest=str(fetched.digest))
        await self._records.manifests.put(str(fetched.digest), record)
        await self._records.facts.put(
            self._records.digest_key(upstream, repository, fetched.digest), Fact(size=len(fetched.body))
        )
        await self._hints.note(upstream, repository, manifest)

    # --- by tag ------------------------------------------------------------------------------------------------------

    async def _by_tag(
        self, upstream: SourceHost, repository: Repository, tag: Tag, *, no_cache: bool
    ) -> ServedManifest:
        key = (upstream, repository, str(tag))
        record = await self._records.tags.get(self._records.tag_key(upstream, repository, tag))
        old = await self._stored(Digest.parse(record.digest)) if record is not None else None
        if record is None or old is None:
            self._not_missing(key)
            self._not_offline(f"tag {tag} of {repository}")
            return await self._single.do(key, lambda: self._ask(upstream, repository, tag, None))
        if self._policy.offline:
            return await self._stale(old, "offline")
        if not no_cache and freshness(record.checked_at, self._clock(), self._fresh_for(upstream)) is Freshness.FRESH:
            return old
        return await self._revalidate(key, tag, old)

    async def _revalidate(
        self, key: tuple[SourceHost, Repository, str], tag: Tag, old: ServedManifest
    ) -> ServedManifest:
        upstream, repository, _ = key
        task = asyncio.create_task(self._single.do(key, lambda: self._ask(upstream, repository, tag, old)))
        self._background.add(task)
        task.add_done_callback(self._asked)
        done, _ = await asyncio.wait({task}, timeout=self._policy.slow)
        if not done:
            return await self._stale(old, f"{upstream} did not answer in {self._policy.slow:g} s")
        try:
            return task.result()
        except Trouble as trouble:
            return await self._stale(old, str(trouble))

    def _asked(self, task: "asyncio.Task[ServedManifest]") -> None:
        self._background.discard(task)
        if (
            not task.cancelled()
            and (error := task.exception()) is not None
            and not isinstance(error, RegistryProxyError)
        ):
            _log.error("manifest.revalidation_crashed", error=repr(error))

    async def _ask(
        self, upstream: SourceHost, repository: Repository, tag: Tag, old: ServedManifest | None
    ) -> ServedManifest:
        """Ask upstream what a tag is now: by HEAD where an old manifest may still be the answer."""
        try:
            if old is not None:
                head = await self._registries[upstream].head_manifest(repository, tag)
                if head.digest == old.digest:
                    await self._move_tag(upstream, repository, tag, old.digest, old.media_type)
                    return old
            return await self._fetch(upstream, repository, tag)
        except (ManifestUnknown, NameUnknown):
            self._missing[upstream, repository, str(tag)] = self._clock()
            while len(self._missing) > _MISSES:
                self._missing.popitem(last=False)
            await self._records.tags.delete(self._records.tag_key(upstream, repository, tag))
            raise

    async def _move_tag(
        self, upstream: SourceHost, repository: Repository, tag: Tag, digest: Digest, media_type: str
    ) -> None:
        record = TagRecord(digest=str(digest), media_type=media_type, checked_at=self._clock())
        await self._records.tags.put(self._records.tag_key(upstream, repository, tag), record)

    async def _stale(self, old: ServedManifest, why: str) -> ServedManifest:
        _log.warning("manifest.stale", digest=str(old.digest), why=why)
        return ServedManifest(old.digest, old.media_type, old.body, why, old.tier)

    # --- policy ------------------------------------------------------------------------------------------------------

    def _fresh_for(self, upstream: SourceHost) -> float:
        settings = self._upstreams.get(upstream)  # gone, if it was taken out of the configuration a moment ago
        own = settings.tag_fresh if settings is not None else None
        return self._policy.tag_fresh if own is None else own

    def _not_missing(self, key: tuple[SourceHost, Repository, str]) -> None:
        since = self._missing.get(key)
        if since is None:
            return
        if freshness(since, self._clock(), self._policy.miss_remembered) is Freshness.FRESH:
            raise ManifestUnknown(f"{key[0]} had no {key[1]}:{key[2]} a moment ago")
        del self._missing[key]

    def _not_offline(self, what: str) -> None:
        if self._policy.offline:
            raise Offline(f"the proxy is offline, and {what} is not in the cache")
