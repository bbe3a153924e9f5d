"""Trying the sources beside the upstreams: parents, CVMFS repositories over HTTP, and the forward proxies on the way to them."""

import asyncio
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from registry_proxy.cli.findings import SourceFound
from registry_proxy.config import Config, CvmfsHttp, Forwarding
from registry_proxy.config.address import Address
from registry_proxy.errors import RegistryProxyError
from registry_proxy.net.forward import Fetched, ForwardProxies
from registry_proxy.plan.forward_proxies import DIRECT, parse
from registry_proxy.plan.origins import Origin
from registry_proxy.sources.cvmfs.source import CvmfsSource
from registry_proxy.telemetry.metrics import Metrics

_LIMIT: Final = 16 << 20
_SOON: Final = 3 * 86_400.0
"""Seconds before the end of a whitelist at which it is worth a word: sites renew theirs weeks before."""


class _Figures(msgspec.Struct):
    version: str
    chunk_size: int


async def look_at_sources(config: Config) -> list[SourceFound]:
    """Every parent, repository and forward proxy, tried at once; in the configuration's order."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_parent(config, url)) for url in config.parent.urls]
        tasks += [group.create_task(_repository(config, settings)) for settings in config.cvmfs_http]
        tasks += [group.create_task(_way(config, way, url)) for way, url in sorted(set(_ways(config)))]
    return [task.result() for task in tasks]


async def _parent(config: Config, url: str) -> SourceFound:
    """A parent, asked straight: does it answer, with chunks of our size."""
    if _is_own(config, url):
        return SourceFound(
            "parent", url, error="this is an address that this instance listens on: name another instance"
        )
    try:
        fetched = await _get(config, DIRECT, f"{url.rstrip('/')}/stats")
    except RegistryProxyError as error:
        return SourceFound("parent", url, error=str(error))
    try:
        figures = msgspec.json.decode(fetched.body, type=_Figures)
    except msgspec.DecodeError:
        return SourceFound("parent", url, error=f"answers {fetched.status}, but not as an instance of this program")
    told = f"registry-proxy {figures.version}, {fetched.seconds * 1000:.0f} ms"
    if figures.chunk_size != config.store.chunk_size:
        wrong = f"has chunks of {figures.chunk_size} bytes and not of {config.store.chunk_size}: set store.chunk_size the same"
        return SourceFound("parent", url, told, wrong)
    return SourceFound("parent", url, told)


async def _repository(config: Config, settings: CvmfsHttp) -> SourceFound:
    """A repository: its letters are fetched and checked by the ways that are configured for it."""
    with tempfile.TemporaryDirectory(prefix="registry-proxy-check-") as scratch:
        ways = ForwardProxies(_forwarding(config, settings.forward_proxies))
        source = CvmfsSource(settings, ways.fetch, Path(scratch), may_share=lambda _: True, metrics=Metrics())
        try:
            async with ways, source:
                await source.refresh()
                state = source.state()
        except RegistryProxyError as error:
            return SourceFound("cvmfs-http", settings.repository, error=str(error))
    expires = datetime.fromtimestamp(state.whitelist_expires or 0, UTC)
    told = f"revision {state.revision}, whitelist until {expires:%Y-%m-%d %H:%M} UTC"
    if (expires - datetime.now(UTC)).total_seconds() < _SOON:
        return SourceFound("cvmfs-http", settings.repository, f"{told}: soon over, tell whoever publishes it")
    return SourceFound("cvmfs-http", settings.repository, told)


async def _way(config: Config, way: str, url: str) -> SourceFound:
    """A forward proxy: does what lies behind it come through."""
    name = f"{way} to {Origin.of(url)}"
    try:
        fetched = await _get(config, way, url)
    except RegistryProxyError as error:
        return SourceFound("way", name, error=f"{error}; it is burnt at the first use, and the next one is taken")
    if fetched.status != 200:
        return SourceFound("way", name, error=f"answers {fetched.status} for {url}: {_advice(fetched.status)}")
    return SourceFound("way", name, f"answers, {fetched.seconds * 1000:.0f} ms")


def _advice(status: int) -> str:
    if status in (403, 407):
        return "have its administrator let this machine in (http_access in Squid's configuration)"
    return "it does not reach that server, or the server is in trouble; its access log tells which"


def _ways(config: Config) -> Iterator[tuple[str, str]]:
    """Each forward proxy with an address behind it."""
    behind = [(config.forward_proxies.groups, f"{url.rstrip('/')}/healthz") for url in config.parent.urls]
    behind += [
        (settings.forward_proxies or config.forward_proxies.groups, f"{url.rstrip('/')}/.cvmfspublished")
        for settings in config.cvmfs_http
        for url in settings.servers
    ]
    for groups, url in behind:
        yield from (
            (way, url) for group in parse(groups, config.forward_proxies.fallback) for way in group if way != DIRECT
        )


async def _get(config: Config, way: str, url: str) -> Fetched:
    """One GET by one way, never a stored answer. Raises Trouble."""

    async def anything(_: Fetched) -> None:
        """Every answer will do."""

    async with ForwardProxies(_forwarding(config, way, fallback="")) as ways:
        return await ways.get(url, anything, limit=_LIMIT, headers={"Cache-Control": "no-cache"})


def _forwarding(config: Config, groups: str | None, fallback: str | None = None) -> Forwarding:
    settings = config.forward_proxies
    return msgspec.structs.replace(
        settings, groups=groups or settings.groups, fallback=settings.fallback if fallback is None else fallback
    )


def _is_own(config: Config, url: str) -> bool:
    origin = Origin.of(url)
    addresses = map(Address.parse, config.server.listen)
    return any(own.path is None and own.netloc == f"{origin.host}:{origin.port}" for own in addresses)
