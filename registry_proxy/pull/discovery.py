"""Lists: tags, referrers, repositories. They come from the upstream each time: an old list misleads more than none."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from registry_proxy.config import Policy, Upstream
from registry_proxy.errors import (
    CatalogDisabled,
    ManifestUnknown,
    NameUnknown,
    NotSoon,
    Offline,
    Trouble,
    UpstreamBroken,
)
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.foreign import Unreadable, decode
from registry_proxy.oci.names import Repository, SourceHost, Tag
from registry_proxy.pull.manifests import Manifests
from registry_proxy.sources.registry import NamePage, Registry

_SOON: Final = 2.0
"""Seconds that an upstream has where the proxy's own answer is enough: SOCI waits three for headers."""

Descriptors = list[dict[str, Any]]
Own = Callable[[SourceHost, Repository, Digest, str | None], Awaitable[Descriptors]]
"""Referrers that the proxy itself has made of a manifest; the last argument: the one type that is wanted, or None."""


async def _none(*_: object) -> Descriptors:
    return []


class _Index(msgspec.Struct):
    manifests: list[dict[str, Any]] | None = None


class Discovery:
    """The lists of every upstream."""

    def __init__(
        self,
        registries: Mapping[SourceHost, Registry],
        upstreams: Mapping[SourceHost, Upstream],
        manifests: Manifests,
        policy: Policy,
        own: Own = _none,
    ) -> None:
        self._own = own
        self._registries = registries
        self._upstreams = upstreams
        self._manifests = manifests
        self._policy = policy

    def apply(self, policy: Policy) -> None:
        """Hold this policy from the next question on."""
        self._policy = policy

    async def tags(self, upstream: SourceHost, repository: Repository, n: int | None, last: str | None) -> NamePage:
        """At most ``n`` tags after ``last``; raises NameUnknown, Denied or Trouble."""
        self._not_offline()
        return await self._registries[upstream].tags(repository, n, last)

    async def catalog(self, upstream: SourceHost, n: int | None, last: str | None) -> NamePage:
        """At most ``n`` repositories after ``last``; raises CatalogDisabled, Denied or Trouble."""
        settings = self._upstreams.get(upstream)
        if settings is None or not settings.catalog:
            raise CatalogDisabled(f"the catalog of {upstream} is not configured to be listed")
        self._not_offline()
        return await self._registries[upstream].catalog(n, last)

    async def referrers(
        self, upstream: SourceHost, repository: Repository, digest: Digest, artifact_type: str | None = None
    ) -> Descriptors:
        """Descriptors of the manifests that refer to this one, those of the proxy's own making last; raises Denied or Trouble.

        ``artifact_type``: the one that matters; others may be among them. An upstream's own referrer of such a type wins, if it is
        known soon: who asks for a type that the proxy has made is not kept waiting by an upstream in trouble. Raises NotSoon while
        the proxy is making what is wanted.
        """
        theirs = asyncio.create_task(self._upstreams_own(upstream, repository, digest))
        late: NotSoon | None = None
        made: Descriptors = []
        try:
            try:
                made = await self._own(upstream, repository, digest, artifact_type)
            except NotSoon as error:
                late = error
            found = await (_soon(theirs) if _has(made, artifact_type) else theirs)
        finally:
            theirs.cancel()
            await asyncio.gather(theirs, return_exceptions=True)
        if late is not None and not _has(found, artifact_type):
            raise late
        types = [each.get("artifactType") for each in found]  # no set: an upstream may say anything there
        return [*found, *(each for each in made if each.get("artifactType") not in types)]

    async def _upstreams_own(self, upstream: SourceHost, repository: Repository, digest: Digest) -> Descriptors:
        """What the upstream has.

        Where the upstream has no referrers API, the index under the tag that stands in for it is read (distribution-spec,
        "Referrers Tag Schema"). Empty only if the upstream says so: trouble must not look like "unsigned".
        """
        self._not_offline()
        body = await self._registries[upstream].referrers(repository, digest)
        if body is None:
            try:
                tag = Tag(f"{digest.algorithm}-{digest.hex}"[:128])
                body = (await self._manifests.get(upstream, repository, tag)).body
            except (ManifestUnknown, NameUnknown):
                return []
        return _descriptors(body, upstream)

    def _not_offline(self) -> None:
        if self._policy.offline:
            raise Offline("the proxy is offline, and lists are not kept")


async def _soon(theirs: Awaitable[Descriptors]) -> Descriptors:
    """What an upstream has, if it says so soon; nothing otherwise."""
    try:
        async with asyncio.timeout(_SOON):
            return await theirs
    except (Trouble, TimeoutError):
        return []


def _has(found: Descriptors, artifact_type: str | None) -> bool:
    return artifact_type is not None and any(each.get("artifactType") == artifact_type for each in found)


def _descriptors(body: bytes, upstream: SourceHost) -> list[dict[str, Any]]:
    """The descriptors of an image index as they stand there; raises UpstreamBroken."""
    try:
        return decode(body, _Index).manifests or []
    except Unreadable as error:
        raise UpstreamBroken(f"{upstream} sent referrers that are no image index: {error}") from error
