"""What an upstream is asked about a client: for the very thing that the client wants, with what the client shows.

Only the upstream's own answer counts, and a manifest that names something proves nothing. HEAD costs least; where it is refused or
not known, the first byte is asked for instead.
"""

from typing import Final

from registry_proxy.access.gate import Subject
from registry_proxy.errors import BlobUnknown, ManifestUnknown, NameUnknown, UpstreamBroken
from registry_proxy.net.authority import Shown
from registry_proxy.net.upstream import Ask, UpstreamClient
from registry_proxy.oci import content
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Reference, Repository

_HEAD_REFUSED: Final = frozenset({400, 403, 405, 501})
"""What some registries, and the storage that they send us to, say to a HEAD whatever GET would say."""


async def ask(client: UpstreamClient, subject: Subject, shown: Shown) -> None:
    """Return if the upstream gives this to whoever shows that.

    Raises LoginNeeded, Denied, ManifestUnknown, BlobUnknown, NameUnknown or Trouble.
    """
    if subject.repository is None:
        await _said(client, Ask("/v2/", UpstreamBroken, shown=shown))
    elif subject.manifest is not None:
        await _ask_manifest(client, subject.repository, subject.manifest, shown)
    elif subject.blob is not None:
        await _ask_blob(client, subject.repository, subject.blob, shown)
    else:
        await ask_repository(client, subject.repository, shown)


async def ask_repository(client: UpstreamClient, repository: Repository, shown: Shown) -> None:
    """The same about a repository as such: by a list of at most one tag. Raises NameUnknown if there is none."""
    path = f"/v2/{repository}/tags/list"
    await _said(client, Ask(path, NameUnknown, repository=repository, query={"n": "1"}, shown=shown))


async def _ask_manifest(client: UpstreamClient, repository: Repository, reference: Reference, shown: Shown) -> None:
    path, headers = f"/v2/{repository}/manifests/{reference}", {"Accept": content.ACCEPT}
    accept = frozenset({200}) | _HEAD_REFUSED
    head = Ask(path, ManifestUnknown, "HEAD", repository, headers=headers, accept=accept, shown=shown)
    if await _said(client, head) in _HEAD_REFUSED:
        await _said(client, Ask(path, ManifestUnknown, "GET", repository, headers=headers, shown=shown))


async def _ask_blob(client: UpstreamClient, repository: Repository, digest: Digest, shown: Shown) -> None:
    path, accept = f"/v2/{repository}/blobs/{digest}", frozenset({200}) | _HEAD_REFUSED
    if await _said(client, Ask(path, BlobUnknown, "HEAD", repository, accept=accept, shown=shown)) in _HEAD_REFUSED:
        headers, accept = {"Range": "bytes=0-0"}, frozenset({200, 206, 416})
        await _said(client, Ask(path, BlobUnknown, "GET", repository, headers=headers, accept=accept, shown=shown))


async def _said(client: UpstreamClient, ask: Ask) -> int:
    """The status of the answer; its body is not read."""
    async with client.ask(ask) as response:
        if response.media_type == "text/html":
            raise UpstreamBroken(f"{response.origin} sends a web page")
        return response.status
