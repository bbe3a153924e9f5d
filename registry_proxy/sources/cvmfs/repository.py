"""A repository as it is now: its verified root, refreshed when its time to live is over, and look-ups from there.

==========  =============================================================================================================
unknown     nothing verified yet: a look-up waits for the letters, but no longer than its patience
held        a root is verified: look-ups use it at once; when its time to live is over, the next one starts a refresh in the
            background, and goes on with what is held
refreshed   the new root's catalog is on disk before it takes the place of the old one
held on     a refresh failed: the old root stays, until its whitelist expires
refused     no letters can be believed, or no server answers: look-ups fail at once until it is time to try again
==========  =============================================================================================================
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog

from registry_proxy.errors import BlobUnknown, RepositoryRefused, Trouble, UpstreamDown, UpstreamUnreachable
from registry_proxy.net.single import SingleFlight
from registry_proxy.oci.digest import Digest
from registry_proxy.sources.cvmfs.catalog import CatalogRef, Entry
from registry_proxy.sources.cvmfs.catalogs import Catalogs
from registry_proxy.sources.cvmfs.letters import Blacklist
from registry_proxy.sources.cvmfs.servers import Servers
from registry_proxy.sources.cvmfs.trust import Notary, Shelf, Trusted
from registry_proxy.sources.cvmfs.workers import Workers

T = TypeVar("T")
_log = structlog.get_logger()

_SHORTEST, _LONGEST = 60.0, 86400.0
"""Seconds: bounds of a repository's time to live."""
_RETRY = 180.0
"""Seconds after a refresh that failed until the next one (cvmfs ``mountpoint.h``)."""
_RETRY_UNKNOWN = 30.0
"""Seconds after which a repository that could not be had is tried again."""
_REMEMBERED = 16384
"""Look-ups remembered for one root."""
_DEEPEST = 8
"""Catalogs that one look-up goes through."""


@dataclass(frozen=True, slots=True)
class Found:
    """A blob's file, and the catalog that has it."""

    entry: Entry
    catalog: CatalogRef


@dataclass
class _Held:
    trusted: Trusted
    found: OrderedDict[str, Found | None] = field(default_factory=OrderedDict)


class Repository:
    """The blobs of one repository. ``clock``: seconds since the epoch; ``patience``: seconds that a look-up waits at most."""

    def __init__(
        self,
        name: str,
        notary: Notary,
        servers: Servers,
        catalogs: Catalogs,
        shelf: Shelf,
        workers: Workers,
        blacklist: Path | None,
        patience: float,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self._notary = notary
        self._servers = servers
        self._catalogs = catalogs
        self._shelf = shelf
        self._workers = workers
        self._blacklist = blacklist
        self._patience = patience
        self._clock = clock
        self._held: _Held | None = None
        self._floor: tuple[int, int] | None = None
        self._due = 0.0
        self._said: Trouble | None = None
        self._refreshes: SingleFlight[str, None] = SingleFlight()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._background: asyncio.Task[None] | None = None

    @property
    def trusted(self) -> Trusted | None:
        """The root that is held; None while there is none."""
        return self._held.trusted if self._held else None

    @property
    def trouble(self) -> Trouble | None:
        """What the last refresh failed with; None if it did not."""
        return self._said

    async def close(self) -> None:
        """Stop what runs in the background."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def find(self, digest: Digest) -> Found:
        """The blob's file; raises BlobUnknown if there is none, Trouble if that cannot be known soon.

        What takes longer than the patience goes on all the same: later look-ups profit from it.
        """
        held = self._held
        if held is not None and digest.hex in held.found and self._fresh(held):
            return _known(held, digest)
        return await self._patiently(self._find(digest))

    async def refresh(self) -> None:
        """Look for a new root now; raises Trouble. Concurrent calls share one look."""
        await self._refreshes.do("", self._refresh)

    async def _find(self, digest: Digest) -> Found:
        held = await self._root()
        if digest.hex not in held.found:
            held.found[digest.hex] = await self._walk(held.trusted.root, _path(digest))
            if len(held.found) > _REMEMBERED:
                held.found.popitem(last=False)
        held.found.move_to_end(digest.hex)
        return _known(held, digest)

    async def _walk(self, ref: CatalogRef, path: str) -> Found | None:
        for _ in range(_DEEPEST):
            match await self._catalogs.look_up(ref, path):
                case CatalogRef() as nested:
                    ref = nested
                case Entry() as entry:
                    return Found(entry, ref)
                case None:
                    return None
        return None

    async def _root(self) -> _Held:
        """The root to look from; raises Trouble."""
        held = self._held
        if held is not None and self._fresh(held):
            return held
        if held is not None and self._valid(held):
            if self._background is None or self._background.done():
                self._background = self._start(self._refresh_quietly())
            return held
        if self._said is not None and self._clock() < self._due:
            raise UpstreamDown(f"{self.name} is left out for now: {self._said}")
        await self.refresh()
        if self._held is None:
            raise RepositoryRefused(f"{self.name}: no root")
        return self._held

    def _fresh(self, held: _Held) -> bool:
        return self._clock() < self._due and self._valid(held)

    def _valid(self, held: _Held) -> bool:
        return self._clock() < held.trusted.whitelist.expires

    async def _refresh_quietly(self) -> None:
        with suppress(Trouble):  # logged and remembered where it happened
            await self.refresh()

    async def _refresh(self) -> None:
        base: Trusted | None = None
        try:
            blacklist = await self._workers.run(self._read_blacklist)
            base = await self._start_from(blacklist)
            trusted = await self._newest(base, blacklist)
            await self._catalogs.provide(trusted.root)
        except Trouble as trouble:
            if self._held is None and base is not None:
                self._hold(base)
            self._failed(trouble)
            if self._held is None:
                raise
            return
        self._said = None
        self._due = self._clock() + min(max(trusted.manifest.ttl, _SHORTEST), _LONGEST)
        if self._held is None or self._held.trusted is not trusted:
            self._hold(trusted)
            await self._keep(trusted)

    def _failed(self, trouble: Trouble) -> None:
        self._said = trouble
        if self._held is not None and not self._valid(self._held):
            self._held = None
        self._due = self._clock() + (_RETRY_UNKNOWN if self._held is None else _RETRY)
        _log.warning("cvmfs.refused", repository=self.name, held=self._held is not None, error=str(trouble))

    def _hold(self, trusted: Trusted) -> None:
        same = self._held is not None and self._held.trusted.root == trusted.root
        self._held = _Held(trusted, self._held.found if self._held is not None and same else OrderedDict())
        self._floor = trusted.manifest.age
        _log.info("cvmfs.root", repository=self.name, revision=trusted.manifest.revision, root=str(trusted.root.hash))

    async def _keep(self, trusted: Trusted) -> None:
        try:
            await self._workers.run(self._shelf.write, trusted.kept)
        except OSError as error:
            _log.warning("cvmfs.letters_not_kept", repository=self.name, error=str(error))

    async def _newest(self, base: Trusted | None, blacklist: Blacklist) -> Trusted:
        """What the first server publishes that can be believed, ``base`` itself if nothing has changed; raises Trouble.

        A server that cannot be believed is asked again past the caches on the way, before the next one is.
        """
        said: Trouble = RepositoryRefused(f"{self.name} has no server")
        for server in self._servers.usable():
            for no_cache in (False, True):
                try:
                    return await self._notary.ask(server, base, self._floor or (0, 0), blacklist, no_cache=no_cache)
                except RepositoryRefused as refused:
                    said = refused
                except Trouble as trouble:
                    said = trouble
                    break
        raise said

    async def _start_from(self, blacklist: Blacklist) -> Trusted | None:
        """What is held, unless the blacklist has caught up with it; at first, what was kept, if it may still be believed."""
        if self._held is not None:
            try:
                self._notary.recheck(self._held.trusted, blacklist)
            except RepositoryRefused:
                self._held = None
                return None
            return self._held.trusted
        kept = await self._workers.run(self._shelf.read)
        if kept is None:
            return None
        try:
            self._floor = self._floor or self._notary.floor(kept)
            return self._notary.revive(kept, blacklist)
        except RepositoryRefused:
            return None

    def _read_blacklist(self) -> Blacklist:
        if self._blacklist is None:
            return Blacklist()
        try:
            return Blacklist.parse(self._blacklist.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise RepositoryRefused(f"the blacklist cannot be read: {error}") from error

    async def _patiently(self, work: Coroutine[Any, Any, T]) -> T:
        task = self._start(work)
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.shield(task)
        except TimeoutError:
            raise UpstreamUnreachable(f"{self.name} took more than {self._patience:g} s for a look-up") from None

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody else wants it


def _path(digest: Digest) -> str:
    return f"/blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"


def _known(held: _Held, digest: Digest) -> Found:
    found = held.found[digest.hex]
    if found is None:
        raise BlobUnknown(f"no {digest} in revision {held.trusted.manifest.revision}")
    return found
