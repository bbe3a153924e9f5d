"""What else an upstream is asked: manifests, lists, and whether it has a blob (distribution-spec, "Pull", "Content Discovery").

Everything is small and checked before it is handed on.
"""

import re
import time
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from registry_proxy.errors import BlobUnknown, Denied, DigestInvalid, ManifestUnknown, NameUnknown, UpstreamBroken
from registry_proxy.net.response import Response
from registry_proxy.net.upstream import Ask, UpstreamClient
from registry_proxy.oci import content
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.foreign import Unreadable, decode
from registry_proxy.oci.names import Reference, Repository, SourceHost
from registry_proxy.plan.content_range import parse_content_range
from registry_proxy.plan.ratelimit import RateLimit

_MAX_LIST = 16 << 20
_HEAD_REFUSED = frozenset({400, 403, 405, 501})
_NEXT = re.compile(r';\s*rel="?next\b', re.IGNORECASE)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Ping:
    """An upstream that answers. ``scheme``: the authorization it wants (``basic``, ``bearer``) or None; ``seconds`` it took."""

    status: int
    scheme: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """What HEAD says about a manifest; None where it is silent."""

    digest: Digest | None
    media_type: str
    size: int | None


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest whose bytes were hashed and are those of ``digest``."""

    body: bytes
    media_type: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class NamePage:
    """Names in the upstream's order. ``more``: there are names after the last of these."""

    names: tuple[str, ...]
    more: bool


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class _Catalog(msgspec.Struct):
    repositories: list[str] | None = None


class _MediaType(msgspec.Struct, rename="camel"):
    media_type: str = ""


class Registry:
    """One upstream. Every method may raise Trouble in any form, and Denied."""

    def __init__(self, client: UpstreamClient) -> None:
        self._client = client

    @property
    def name(self) -> SourceHost:
        """Its source host."""
        return self._client.name

    @property
    def rate_limit(self) -> RateLimit | None:
        """What the upstream said last about how many pulls are left."""
        return self._client.rate_limit

    def asked_as(self, repository: Repository) -> str:
        """As whom the upstream is asked about this repository: empty for anybody, else the mode and the account."""
        return self._client.asked_as(repository)

    def anonymous(self, repository: Repository) -> bool:
        """True if what the upstream says about this repository it says to anybody, and we do."""
        return self._client.anonymous(repository)

    async def ping(self) -> Ping:
        """Ask for ``/v2/``, authorized if that takes no repository; a refusal is an answer here."""
        started = time.monotonic()
        try:
            async with self._client.ask(Ask("/v2/", UpstreamBroken)) as response:
                status = response.status
                if response.media_type == "text/html":
                    raise UpstreamBroken(f"{response.origin} is a web site, not a registry")
        except Denied:
            status = 401
        return Ping(status, self._client.scheme(), time.monotonic() - started)

    async def head_manifest(self, repository: Repository, reference: Reference) -> ManifestHead:
        """What the upstream says about a manifest without sending it (nothing, if it knows no HEAD); raises ManifestUnknown or NameUnknown."""
        async with self._client.ask(self._manifest("HEAD", repository, reference)) as response:
            if response.status != 200:
                return ManifestHead(None, "", None)
            return ManifestHead(_said_digest(response), response.media_type, response.length)

    async def get_manifest(self, repository: Repository, reference: Reference) -> FetchedManifest:
        """A manifest, checked against the digest asked for or announced; raises ManifestUnknown or NameUnknown.

        Raises UpstreamBroken for wrong bytes, more than ``content.MAX_MANIFEST`` of them, and what is no JSON object.
        """
        async with self._client.ask(self._manifest("GET", repository, reference)) as response:
            response.refuse_encoding()
            body = await response.read(content.MAX_MANIFEST)
            expected = reference if isinstance(reference, Digest) else _said_digest(response)
            said_type = response.media_type
        digest = Digest.of(body, expected.algorithm if expected else "sha256")
        if expected not in {None, digest}:
            raise UpstreamBroken(f"{self.name} sends a manifest that does not hash to {expected}")
        inner = _decode(body, _MediaType, f"{self.name}: {repository} {reference}: not a manifest").media_type
        own_type = content.media_type(inner) or said_type
        return FetchedManifest(body, said_type if said_type.startswith("application/vnd.") else own_type, digest)

    async def tags(self, repository: Repository, n: int | None = None, last: str | None = None) -> NamePage:
        """At most ``n`` tags after ``last``; raises NameUnknown."""
        body, more = await self._list(f"/v2/{repository}/tags/list", repository, n, last)
        return _page(_decode(body, _Tags, f"{self.name}: not a list of tags").tags, more, n, last)

    async def catalog(self, n: int | None = None, last: str | None = None) -> NamePage:
        """At most ``n`` repositories after ``last``; raises NameUnknown if the upstream does not tell."""
        body, more = await self._list("/v2/_catalog", None, n, last)
        return _page(_decode(body, _Catalog, f"{self.name}: not a catalog").repositories, more, n, last)

    async def referrers(self, repository: Repository, digest: Digest) -> bytes | None:
        """The image index of what refers to a manifest; None only where the upstream has no referrers API (404)."""
        ask = Ask(
            f"/v2/{repository}/referrers/{digest}",
            NameUnknown,
            repository=repository,
            headers={"Accept": content.OCI_INDEX},
            accept=frozenset({200, 404}),
        )
        async with self._client.ask(ask) as response:
            if response.status == 404:
                return None
            response.refuse_encoding()
            return await response.read(_MAX_LIST)

    async def head_blob(self, repository: Repository, digest: Digest) -> int:
        """Bytes of a blob; raises BlobUnknown. Where HEAD is refused, silent or nonsense, one byte is asked for.

        Some servers answer HEAD with a Content-Length of 0, and what is believed here is believed for ever.
        """
        path = f"/v2/{repository}/blobs/{digest}"
        ask = Ask(path, BlobUnknown, "HEAD", repository, accept=frozenset({200}) | _HEAD_REFUSED, blob=True)
        async with self._client.ask(ask) as response:
            length = response.length if response.status == 200 and response.media_type != "text/html" else None
            if length is not None and content.is_possible(digest, length):
                return length
        headers, accept = {"Range": "bytes=0-0"}, frozenset({200, 206, 416})
        async with self._client.ask(
            Ask(path, BlobUnknown, "GET", repository, headers=headers, accept=accept, blob=True)
        ) as response:
            size = _size_of_probe(response)
            if not content.is_possible(digest, size):
                raise UpstreamBroken(f"{response.origin} says that a blob has {size} bytes")
            return size

    def _manifest(self, method: str, repository: Repository, reference: Reference) -> Ask:
        path = f"/v2/{repository}/manifests/{reference}"
        accept = frozenset({200, 405}) if method == "HEAD" else frozenset({200})
        return Ask(path, ManifestUnknown, method, repository, headers={"Accept": content.ACCEPT}, accept=accept)

    async def _list(
        self, path: str, repository: Repository | None, n: int | None, last: str | None
    ) -> tuple[bytes, bool]:
        query = {name: str(value) for name, value in (("n", n), ("last", last)) if value is not None}
        async with self._client.ask(Ask(path, NameUnknown, repository=repository, query=query)) as response:
            response.refuse_encoding()
            return await response.read(_MAX_LIST), _NEXT.search(response.headers.get("Link", "")) is not None


def _page(names: list[str] | None, more: bool, n: int | None, last: str | None) -> NamePage:
    """The page asked for, also from an upstream that knows no pages and sends every name every time."""
    names = names or []
    if last in names:
        names = names[names.index(last) + 1 :]
    cut = n is not None and len(names) > n
    return NamePage(tuple(names[:n] if cut else names), (more or cut) and n != 0)


def _size_of_probe(response: Response) -> int:
    """The size of a blob of which the first byte was asked for."""
    said = response.headers.get("Content-Range", "")
    match response.status:
        case 206 if found := parse_content_range(said):
            return found.total
        case 416 if said == "bytes */0":
            return 0
        case 200 if response.length is not None and response.media_type != "text/html":
            return response.length
    raise UpstreamBroken(f"{response.origin} does not say how long a blob is")


def _said_digest(response: Response) -> Digest | None:
    try:
        return Digest.parse(response.headers.get("Docker-Content-Digest", ""))
    except DigestInvalid:
        return None


def _decode(body: bytes, kind: type[_T], complaint: str) -> _T:
    try:
        return decode(body, kind)
    except Unreadable as error:
        raise UpstreamBroken(f"{complaint}: {error}") from error
