"""The catalogs on disk: fetched when they are needed first, kept inflated, bounded in bytes.

A file's name is the catalog's hash and the sha-256 of what the file must hold, which is checked when a process first uses it;
so the directory may be lost, or damaged, at any time.
"""

import hashlib
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from registry_proxy.errors import UpstreamBroken
from registry_proxy.net.single import SingleFlight
from registry_proxy.sources.cvmfs import catalog
from registry_proxy.sources.cvmfs.catalog import CatalogRef, Entry, Piece
from registry_proxy.sources.cvmfs.hashes import ContentHash
from registry_proxy.sources.cvmfs.servers import Servers
from registry_proxy.sources.cvmfs.sinks import Verified
from registry_proxy.sources.cvmfs.workers import Workers

T = TypeVar("T")

_ROOM = 1 << 30
"""Bytes of catalogs on disk; a single one of more is refused."""

_REMEMBERED = 4096
"""Catalogs known to be undamaged, gone ones among them."""

_READ = 1 << 20


class Catalogs:
    """Catalogs of one repository. ``directory``: theirs alone, made if need be by ``prepare``."""

    def __init__(self, directory: Path, servers: Servers, workers: Workers, room: int = _ROOM) -> None:
        self._directory = directory
        self._servers = servers
        self._workers = workers
        self._room = room
        self._checked: OrderedDict[ContentHash, Path] = OrderedDict()
        self._flights: SingleFlight[ContentHash, Path] = SingleFlight()

    def prepare(self) -> None:
        """Make the directory and clear what an earlier process left half done. Blocks."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for left in self._directory.glob("*.tmp"):
            left.unlink(missing_ok=True)

    async def provide(self, ref: CatalogRef) -> None:
        """Have the catalog at hand; raises Trouble."""
        await self._file(ref)

    async def look_up(self, ref: CatalogRef, path: str) -> Entry | CatalogRef | None:
        """What the catalog has at ``path``; see ``catalog.look_up``. Raises Trouble."""
        return await self._ask(ref, lambda file: catalog.look_up(file, path))

    async def pieces(self, ref: CatalogRef, entry: Entry, start: int, most: int) -> list[Piece]:
        """Chunks of a file; see ``catalog.pieces``. Raises Trouble."""
        return await self._ask(ref, lambda file: catalog.pieces(file, entry, start, most))

    async def _ask(self, ref: CatalogRef, question: Callable[[Path], T]) -> T:
        for _ in range(2):
            file = await self._file(ref)
            try:
                return await self._workers.run(question, file)
            except FileNotFoundError:  # made room for another one, or somebody cleared the directory
                self._checked.pop(ref.hash, None)
            except UpstreamBroken:  # damaged on disk, perhaps: the next look-up checks the file again
                self._checked.pop(ref.hash, None)
                raise
        raise UpstreamBroken(f"catalog {ref.hash} does not stay on disk")

    async def _file(self, ref: CatalogRef) -> Path:
        file = self._checked.get(ref.hash)
        if file is None:
            try:
                file = await self._flights.do(ref.hash, partial(self._bring, ref))
            except OSError as error:
                raise UpstreamBroken(f"catalog {ref.hash} cannot be kept: {error.strerror}") from error
            self._checked[ref.hash] = file
            while len(self._checked) > _REMEMBERED:
                self._checked.popitem(last=False)
        self._checked.move_to_end(ref.hash)
        return file

    async def _bring(self, ref: CatalogRef) -> Path:
        """From disk if it lies there undamaged, else from a server."""
        file = await self._workers.run(_find, self._directory, ref.hash)
        if file is None:
            await self._make_room(ref.size or 0)
            file = await self._download(ref)
        if ref.size is None:
            await self._make_room(0)
        return file

    async def _make_room(self, size: int) -> None:
        by_use = [file.name for file in self._checked.values()]
        await self._workers.run(_make_room, self._directory, self._room - size, by_use)

    async def _download(self, ref: CatalogRef) -> Path:
        size = self._room if ref.size is None else ref.size
        if size > self._room:
            raise UpstreamBroken(f"catalog {ref.hash} has {size} bytes, more than {self._room}")
        drafts: list[_Draft] = []

        def make() -> Verified:
            drafts.append(_Draft(self._directory))
            return Verified(ref.hash, size, drafts[-1].write, compressed=True, exact=ref.size is not None)

        try:
            await self._servers.get(ref.path, make, ref.hash.digest)
            return await self._workers.run(drafts[-1].keep, ref.hash)
        finally:
            for draft in drafts:
                self._workers.leave(draft.discard)


class _Draft:
    """A catalog that is being written. Blocks: for threads."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / f"{secrets.token_hex(8)}.tmp"
        self._hashing = hashlib.sha256(usedforsecurity=False)

    def write(self, data: bytes | bytearray) -> None:
        with self._path.open("ab") as file:
            file.write(data)
        self._hashing.update(data)

    def keep(self, content: ContentHash) -> Path:
        path = self._path.with_name(f"{content}.{self._hashing.hexdigest()}")
        self._path.rename(path)
        return path

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)


def _find(directory: Path, content: ContentHash) -> Path | None:
    """The file of a catalog if it holds what its name says; one that does not is removed."""
    for file in directory.glob(f"{content}.*"):
        if _sha256(file) == file.suffix[1:]:
            os.utime(file)
            return file
        file.unlink(missing_ok=True)
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        hashing = hashlib.sha256(usedforsecurity=False)
        while data := file.read(_READ):
            hashing.update(data)
        return hashing.hexdigest()


def _make_room(directory: Path, room: int, by_use: list[str]) -> None:
    """Remove the files that were not used for longest until the others fit. ``by_use``: those this process uses, in order."""
    order = {name: number for number, name in enumerate(by_use)}
    files = [(entry.stat(), Path(entry.path)) for entry in os.scandir(directory) if not entry.name.endswith(".tmp")]
    used = sum(stat.st_size for stat, _ in files)
    for stat, path in sorted(files, key=lambda each: (order.get(each[1].name, -1), each[0].st_mtime)):
        if used <= room:
            return
        path.unlink(missing_ok=True)
        used -= stat.st_size
