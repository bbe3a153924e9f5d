"""The composition root: builds everything once and owns lifetimes. No logic."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import msgspec
import structlog

from registry_proxy import __version__
from registry_proxy.access import passwords
from registry_proxy.access.passwords import Passwords
from registry_proxy.access.proofs import Proofs
from registry_proxy.access.upstreams import Upstreams
from registry_proxy.config import Config, Forwarding, Policy
from registry_proxy.config.changes import changes
from registry_proxy.errors import ConfigInvalid
from registry_proxy.lazy.work.queue import Queue
from registry_proxy.net.forward import ForwardProxies
from registry_proxy.net.hops import new_identity
from registry_proxy.oci.names import SourceHost
from registry_proxy.pull.blobs import Blobs
from registry_proxy.pull.discovery import Discovery
from registry_proxy.pull.lazy_images import LazyImages
from registry_proxy.pull.manifests import Manifests
from registry_proxy.pull.offers import Offers, ShelfDoor, lazy_stats
from registry_proxy.pull.public import PublicChunks
from registry_proxy.pull.workshop import Workshop
from registry_proxy.sources.base import BlobPlace
from registry_proxy.sources.chunk_lists import ChunkLists
from registry_proxy.sources.cvmfs.source import CvmfsSource
from registry_proxy.sources.parent import ParentSource
from registry_proxy.sources.rangeless import DayMemory
from registry_proxy.sources.registry import Registry
from registry_proxy.sources.upstream import UpstreamSource
from registry_proxy.sources.watched import Watched
from registry_proxy.telemetry import logs
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.telemetry.sums import by_label, served, snapshot
from registry_proxy.tiers.mounted import MountedTier
from registry_proxy.tiers.records import Records
from registry_proxy.tiers.shelf import Shelf
from registry_proxy.tiers.stack import Stack
from registry_proxy.tiers.store import ChunkStore, open_store
from registry_proxy.web.chunks import Chunks
from registry_proxy.web.limits import calm_collector, raise_open_files
from registry_proxy.web.server import Face

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Figures:
    """What an instance says about itself."""

    store: ChunkStore
    upstreams: Upstreams
    source: UpstreamSource
    sources: tuple[Watched, ...]
    tiers: Stack
    metrics: Metrics
    lazy: Callable[[], Mapping[str, object]]

    async def exposition(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return self.metrics.exposition()

    async def stats(self) -> dict[str, object]:
        """The figures of ``/stats``."""
        figures = snapshot(self.metrics.registry)
        fetched = by_label(figures, "registry_proxy_fetched_bytes_total")
        return {
            "version": __version__,
            "chunk_size": self.store.chunk_size,
            "served": served(figures),
            "store": self.store.stats(),
            "tiers": self.tiers.stats(),
            "sources": [source.stats() for source in self.sources],
            "upstreams": {
                str(name): {
                    "bytes": fetched.get(name, 0),
                    "rangeless": self.source.rangeless(name),
                    "rate_limit": self.upstreams.registries[name].rate_limit,
                }
                for name in self.upstreams.settings
            },
            "lazy": self.lazy(),
        }

    def unready(self) -> str | None:
        """Why no requests should be sent here: never, once it listens."""
        return None


class Follower(Protocol):
    """Something that a policy guides."""

    def apply(self, policy: Policy) -> None:
        """Hold this policy from now on."""


@dataclass(frozen=True, slots=True)
class Instance:
    """Everything that runs. ``face`` is built, and not listening yet; ``followers``: what the policy guides."""

    config: Config
    store: ChunkStore
    records: Records
    upstreams: Upstreams
    source: UpstreamSource
    sources: tuple[Watched, ...]
    tiers: Stack
    metrics: Metrics
    manifests: Offers
    discovery: Discovery
    blobs: Blobs
    public: PublicChunks
    passwords: Passwords
    figures: Figures
    face: Face
    followers: tuple[Follower, ...]

    async def apply(self, config: Config) -> None:
        """Hold what of this configuration can change while it runs, from the next request on. Raises ConfigInvalid; nothing has changed then."""
        self.upstreams.apply(config)
        self.passwords.apply(config)
        for follower in self.followers:
            follower.apply(config.policy)
        await self.face.apply(config.server)
        await self.upstreams.tidy()


@asynccontextmanager
async def assemble(
    config: Config, clock: Callable[[], float] = time.time, identity: str | None = None
) -> AsyncIterator[Instance]:
    """Build an instance and take it apart again, last things first. ``clock``: seconds since the epoch.

    ``identity``: its name in ``Via``, where several processes are one instance. Raises StoreUnusable or ConfigInvalid.
    """
    async with AsyncExitStack() as stack:
        metrics = Metrics(config.upstreams)
        store, records = await stack.enter_async_context(open_store(config.store, clock))
        checked = await stack.enter_async_context(passwords.opened(config, partial(metrics.refused, "password")))
        upstreams = await stack.enter_async_context(Upstreams(config, checked, metrics))
        registries, served = upstreams.registries, upstreams.settings
        records.asked_as = upstreams.asked_as
        source = UpstreamSource(upstreams.clients, DayMemory(time.monotonic), metrics)
        proofs = Proofs(
            registries,
            records,
            config.policy,
            closed=lambda: upstreams.closed,
            for_everybody=lambda host: host in served and served[host].for_everybody,
        )
        identity = identity or new_identity()
        shared = await _shared_sources(config, stack, identity, store.chunk_size, registries, metrics)
        sources = _in_order(config.policy.sources, (*shared, Watched(source, metrics)))
        tiers = Stack(_mounted(config, store.chunk_size, metrics))
        stack.push_async_callback(tiers.close)
        shelf = Shelf(config.store.path / "lazy", store, records, config.lazy.limit, clock)
        await shelf.load()
        blobs = Blobs(
            ShelfDoor(proofs, shelf),
            store,
            records,
            sources,
            served,
            config.policy,
            metrics,
            tiers,
            config.lazy.verify_chunks,
        )
        stack.push_async_callback(blobs.close)
        metrics.watch_store(store.stats)
        public = PublicChunks(blobs, proofs, records, store.chunk_size)
        stack.push_async_callback(public.close)
        manifests = Manifests(registries, served, records, config.policy, clock)
        stack.push_async_callback(manifests.close)
        offers, queue = await _offers(config, stack, manifests, blobs, shelf, records, metrics)
        discovery = Discovery(registries, served, manifests, config.policy, offers.referrers)
        figures = Figures(
            store, upstreams, source, sources, tiers, metrics, lambda: lazy_stats(queue, shelf, upstreams.hidden)
        )
        face = Face(
            msgspec.structs.replace(config, upstreams=served),
            manifests=offers,
            discovery=discovery,
            blobs=blobs,
            chunks=Chunks(public, identity, served, upstreams.guard),
            metrics=metrics,
            figures=figures,
            guard=upstreams.guard,
            realms=upstreams.realms,
        )
        yield Instance(
            config,
            store,
            records,
            upstreams,
            source,
            sources,
            tiers,
            metrics,
            offers,
            discovery,
            blobs,
            public,
            checked,
            figures,
            face,
            (proofs, manifests, blobs, discovery),
        )


async def _offers(
    config: Config,
    stack: AsyncExitStack,
    manifests: Manifests,
    blobs: Blobs,
    shelf: Shelf,
    records: Records,
    metrics: Metrics,
) -> tuple[Offers, Queue]:
    """Lazy images: the workshop that makes them, the queue before it, and what is offered of them."""
    directory = config.store.path / "lazy"
    workshop = Workshop(blobs, shelf, directory / "work")
    await workshop.prepare()
    queue = Queue(directory / "jobs", config.lazy.workers, workshop.do, metrics)
    images = LazyImages(manifests, blobs, shelf, records, config.lazy)
    offers = Offers(manifests, images, queue, records, config.lazy)
    blobs.when_verified(offers.verified)
    stack.push_async_callback(queue.close)
    stack.push_async_callback(offers.close)
    await queue.start()
    return offers, queue


def _mounted(config: Config, chunk_size: int, metrics: Metrics) -> list[MountedTier]:
    return [
        MountedTier(f"cvmfs:{mount.path.name}", mount.path, mount.time_limit, chunk_size, metrics)
        for mount in config.cvmfs
    ]


async def _shared_sources(
    config: Config,
    stack: AsyncExitStack,
    identity: str,
    chunk_size: int,
    registries: Mapping[SourceHost, Registry],
    metrics: Metrics,
) -> list[Watched]:
    """The sources that others use as well: only what anybody may have is asked of them."""

    def may_share(place: BlobPlace) -> bool:
        return registries[place.upstream].anonymous(place.repository)

    async def ways(settings: Forwarding) -> ForwardProxies:
        return await stack.enter_async_context(ForwardProxies(settings))

    sources: list[Watched] = []
    if config.parent.urls:
        to_parents = await ways(config.forward_proxies)
        parent = ParentSource(
            config.parent.urls,
            to_parents,
            ChunkLists(config.parent.urls, await ways(Forwarding()), identity),
            chunk_size=chunk_size,
            patience=config.policy.patience,
            connections=config.parent.connections,
            identity=identity,
            may_share=may_share,
            metrics=metrics,
        )
        sources.append(Watched(parent, metrics, lambda: {"ways": _up(to_parents.states())}))
    for settings in config.cvmfs_http:
        groups = settings.forward_proxies or config.forward_proxies.groups
        to_servers = await ways(msgspec.structs.replace(config.forward_proxies, groups=groups))
        directory = config.store.path / "cvmfs" / settings.repository
        source = CvmfsSource(settings, to_servers.fetch, directory, may_share=may_share, metrics=metrics)
        cvmfs = await stack.enter_async_context(source)
        sources.append(Watched(cvmfs, metrics, partial(_cvmfs_stats, cvmfs, to_servers)))
    return sources


def _up(states: Mapping[str, bool]) -> dict[str, str]:
    return {name: "works" if works else "left out for now" for name, works in states.items()}


def _cvmfs_stats(source: CvmfsSource, ways: ForwardProxies) -> dict[str, object]:
    state = source.state()
    return {
        "revision": state.revision,
        "whitelist_expires": state.whitelist_expires,
        "repository_trouble": state.trouble,
        "servers": _up(state.servers),
        "ways": _up(ways.states()),
    }


def _in_order(names: Sequence[str], sources: Sequence[Watched]) -> tuple[Watched, ...]:
    """The sources in the configured order of their kinds (``cvmfs-http:<repository>`` is of the kind ``cvmfs-http``)."""
    return tuple(source for name in names for source in sources if source.name.partition(":")[0] == name)


async def serve(
    config: Config,
    *,
    ready: Callable[[list[str]], None] | None = None,
    reread: Callable[[], Config] | None = None,
) -> None:
    """Run an instance until SIGTERM or SIGINT. ``ready`` gets the URLs it listens on; ``reread``: the configuration, at SIGHUP.

    Raises StoreUnusable, or ConfigInvalid for an address that cannot be listened on or a certificate that is wrong.
    """
    logs.configure(config.log)
    raise_open_files()
    calm_collector()
    signals = caught(hangup=reread is not None)
    async with assemble(config) as instance:

        async def apply(config: Config) -> None:
            await instance.apply(config)
            logs.set_level(config.log.level)

        await instance.face.start()
        try:
            _log.info("server.ready", version=__version__, store=str(config.store.path))
            if ready is not None:
                ready(instance.face.urls)
            while await signals.get() == signal.SIGHUP and reread is not None:
                config = await reloaded(config, reread, apply)
            _log.info("server.stopping", drain=config.server.drain)
        finally:
            await instance.face.stop()


def caught(*, hangup: bool) -> asyncio.Queue[int]:
    """The signals that this process gets from now on and that mean something to an instance."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if hangup else ())):
        loop.add_signal_handler(number, signals.put_nowait, number)
    return signals


async def reloaded(running: Config, reread: Callable[[], Config], apply: Callable[[Config], Awaitable[None]]) -> Config:
    """The configuration that holds after a SIGHUP, applied: the running one if the new one is wrong."""
    try:
        found = changes(running, await asyncio.to_thread(reread))
        await apply(found.config)
    except (ConfigInvalid, OSError) as error:
        _log.error("config.refused", error=str(error))
        return running
    _log.info("config.reloaded", changed=", ".join(found.now), needs_restart=", ".join(found.later))
    return found.config
