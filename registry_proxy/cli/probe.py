"""Trying an upstream: does it answer, what authorization does it want, does it have ranges."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from registry_proxy.cli.findings import Known, Probed, TierFound
from registry_proxy.config import Config, Upstream
from registry_proxy.errors import BlobUnknown, ManifestInvalid, RegistryProxyError
from registry_proxy.net.upstream import Ask, UpstreamClient
from registry_proxy.oci.content import blobs, parse_manifest
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import ImageName, Reference, Repository, SourceHost
from registry_proxy.sources.registry import Registry
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.tiers.mounted import MountedTier

_ANY_ANSWER = frozenset({200, 206, 400, 416, 501})
"""What registries say to ranges they do not like."""


async def probe_all(config: Config, images: Mapping[SourceHost, ImageName]) -> list[Probed]:
    """Every URL of every upstream, tried at once; in the configuration's order."""
    metrics = Metrics(config.upstreams)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(probe(host, upstream, url, images.get(host), metrics))
            for host, upstream in config.upstreams.items()
            for url in upstream.urls
        ]
    return [task.result() for task in tasks]


async def probe(name: SourceHost, upstream: Upstream, url: str, image: ImageName | None, metrics: Metrics) -> Probed:
    """Try one URL of an upstream; with an image, also ranges of its largest blob. Every failure is in the result."""
    found = Probed(name, url, account=upstream.account is not None)
    async with UpstreamClient(name, msgspec.structs.replace(upstream, urls=(url,)), metrics) as client:
        registry = Registry(client)
        try:
            ping = await registry.ping()
            ranges, multi = await _ranges(client, registry, image) if image else ("unknown", "unknown")
        except RegistryProxyError as error:
            return replace(found, error=str(error), authorization=client.scheme() or "unknown")
    return replace(
        found,
        status=ping.status,
        seconds=round(ping.seconds, 4),
        authorization=client.scheme() or ("required" if ping.status == 401 else "none"),
        ranges=ranges,
        multi_range=multi,
    )


async def _ranges(client: UpstreamClient, registry: Registry, image: ImageName) -> tuple[Known, Known]:
    digest = await _largest_blob(registry, image.repository, image.reference)
    single = await _asks_for(client, image.repository, digest, "bytes=0-0")
    if single is None or single.startswith("multipart/"):
        return "no", "no"
    multi = await _asks_for(client, image.repository, digest, "bytes=0-0,2-2")
    return "yes", "yes" if multi is not None and multi.startswith("multipart/byteranges") else "no"


async def _asks_for(client: UpstreamClient, repository: Repository, digest: Digest, header: str) -> str | None:
    """The media type of a 206 to this Range; None if the answer is another. The body is not read."""
    path = f"/v2/{repository}/blobs/{digest}"
    ask = Ask(path, BlobUnknown, repository=repository, headers={"Range": header}, accept=_ANY_ANSWER, blob=True)
    async with client.ask(ask) as response:
        return response.media_type if response.status == 206 else None


async def _largest_blob(registry: Registry, repository: Repository, reference: Reference) -> Digest:
    """The largest blob of an image, of an index's first one; raises ManifestInvalid if it has none."""
    manifest = parse_manifest((await registry.get_manifest(repository, reference)).body)
    if manifest.manifests:
        first = Digest.parse(manifest.manifests[0].digest)
        manifest = parse_manifest((await registry.get_manifest(repository, first)).body)
    largest = max(blobs(manifest), key=lambda blob: blob.size, default=None)
    if largest is None:
        raise ManifestInvalid(f"{repository}: the manifest names no blob to try ranges on")
    return largest.digest


async def look_at_tiers(config: Config) -> list[TierFound]:
    """Every mounted tier, each within its time limit."""
    found = []
    for mount in config.cvmfs:
        tier = MountedTier("cvmfs", mount.path, mount.time_limit, config.store.chunk_size, Metrics())
        found.append(TierFound(str(mount.path), await tier.probe()))
        await tier.close()
    return found
