"""What was made here: lazy copies and indexes of layers. No upstream has them, so they are not evicted, but taken down as a whole.

Their bytes are chunks in the store like any other. What they are lies beside it, one small file each, so that losing the records
does not lose hours of work::

    lazy/blobs/<hex>.json              a blob, and the repositories whose readers may have it
    lazy/layers/<kind>/<hex>.json      what became of a source layer: such a blob, or why it is none

A blob that is not whole any more (a chunk went bad) is as good as not made: it is taken down, and its layer made again when asked for.
"""

import asyncio
import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import msgspec
import structlog

from registry_proxy.errors import ContentCorrupt, DigestInvalid, StoreFull
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.plan.chunks import Grid
from registry_proxy.tiers.records import Records
from registry_proxy.tiers.schema import Place, VerifiedBlob
from registry_proxy.tiers.store import ChunkStore, Room

_log = structlog.get_logger()

T = TypeVar("T", bound=msgspec.Struct)

_MOST_PLACES: Final = 64
"""Repositories per blob; a base layer may be in more, and the first ones have to ask again."""


class MadeLayer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of the layer ``source``. ``digest``, ``size``: of the blob; ``details``: what else its maker says of it;
    ``refused``: why there is no blob."""

    source: str
    digest: str = ""
    size: int = 0
    details: dict[str, str | int] = {}
    refused: str = ""


class ShelvedBlob(msgspec.Struct, frozen=True):
    """A blob that was made. ``size``: bytes; ``made``: seconds since the epoch."""

    digest: str
    size: int
    made: float
    places: tuple[Place, ...] = ()


class Shelf:
    """All that was made. ``limit``: bytes of it, None: half of the store. Kinds are names of directories."""

    def __init__(
        self,
        directory: Path,
        store: ChunkStore,
        records: Records,
        limit: int | None,
        clock: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._store = store
        self._records = records
        self._limit = limit
        self._clock = clock
        self._layers: dict[tuple[str, str], MadeLayer] = {}
        self._blobs: OrderedDict[Digest, ShelvedBlob] = OrderedDict()  # used longest ago first
        self._turn = asyncio.Lock()
        self._writing = threading.Lock()

    async def load(self) -> None:
        """Find what was made before; what cannot be read is forgotten."""
        blobs, layers = await asyncio.to_thread(self._read)
        for blob in sorted(blobs, key=lambda blob: blob.made):
            with contextlib.suppress(DigestInvalid):
                digest = Digest.parse(blob.digest)
                self._blobs[digest] = blob
                self._store.hold(digest)
        self._layers = layers

    @property
    def limit(self) -> int:
        """Bytes of blobs."""
        return self._store.limit // 2 if self._limit is None else int(self._limit)

    @property
    def bytes(self) -> int:
        """Bytes of all blobs."""
        return sum(blob.size for blob in self._blobs.values())

    def stats(self) -> dict[str, object]:
        """What ``/stats`` shows."""
        refused = sum(bool(layer.refused) for layer in self._layers.values())
        return {
            "blobs": len(self._blobs),
            "bytes": self.bytes,
            "limit": self.limit,
            "layers": len(self._layers) - refused,
            "refused": refused,
        }

    def size_at(self, upstream: SourceHost, repository: Repository, digest: Digest) -> int | None:
        """The size of a blob, if it was made for this repository; marks it as used."""
        blob = self._blobs.get(digest)
        if blob is None or self._place(upstream, repository) not in blob.places:
            return None
        self._blobs.move_to_end(digest)
        return blob.size

    def whole_at(self, upstream: SourceHost, repository: Repository, digest: Digest) -> bool:
        """True if a blob was made for this repository and every chunk of it is here; marks it as used."""
        size = self.size_at(upstream, repository, digest)
        return size is not None and not self._store.missing(digest, self._store.grid(size))

    async def layer(self, kind: str, source: Digest) -> MadeLayer | None:
        """What became of a layer, if that is still here; marks it as used."""
        made = self._layers.get((kind, str(source)))
        if made is None or made.refused:
            return made
        digest = Digest.parse(made.digest)
        blob = self._blobs.get(digest)
        if blob is None or self._store.missing(digest, self._store.grid(blob.size)):
            await self._take_down(digest)
            return None
        self._blobs.move_to_end(digest)
        return made

    async def note(self, kind: str, made: MadeLayer) -> None:
        """Keep what became of a layer; its blob has been put here before."""
        self._layers[kind, made.source] = made
        await asyncio.to_thread(self._write_down, (), [(kind, made.source)])

    async def put(self, file: BinaryIO, size: int, digest: Digest) -> None:
        """Take a blob into the store and hold it there. Raises StoreFull, StoreBroken, or ContentCorrupt if it is another blob."""
        async with self._turn:
            if digest in self._blobs and not self._store.missing(digest, self._store.grid(size)):
                return
            await self._make_room(size)
            room = await self._store.reserve(size, digest)
            if room is None:
                raise StoreFull(f"no room in the store for {size} bytes that were made")
            self._store.hold(digest)
            try:
                await self._fill(file, self._store.grid(size), digest, room)
            except BaseException:
                self._store.release(digest)
                raise
            finally:
                room.release()
            await self._keep(ShelvedBlob(str(digest), size, self._clock()))

    async def admit(self, upstream: SourceHost, repository: Repository, digest: Digest) -> None:
        """Readers of this repository may have the blob. Raises StoreFull if it has had to make way for another one meanwhile."""
        blob, place = self._blobs.get(digest), self._place(upstream, repository)
        if blob is None:
            raise StoreFull(f"{digest} had to make way for another blob of the same image")
        if place not in blob.places:
            places = (place, *blob.places)[:_MOST_PLACES]
            await self._keep(msgspec.structs.replace(blob, places=places))
        await self._records.add_place(digest, upstream, repository)

    def _place(self, upstream: SourceHost, repository: Repository) -> Place:
        """The repository as it is asked about now: who reads otherwise, by another mode or account, has had nothing made."""
        return Place(self._records.asked_as(upstream, repository) + upstream, repository)

    async def _fill(self, file: BinaryIO, grid: Grid, digest: Digest, room: Room) -> None:
        hasher, sums = digest.hasher(), bytearray()
        for index in range(grid.count):
            data = await asyncio.to_thread(file.read, grid.length_of(index))
            with contextlib.closing(await self._store.put(digest, grid, index, data, room, hasher=hasher)) as chunk:
                sums += chunk.sha256
        if hasher.hexdigest() != digest.hex:
            await self._store.drop(digest)
            raise ContentCorrupt(f"what was made does not hash to {digest}")
        known = VerifiedBlob(size=grid.size, chunk_size=grid.chunk, chunk_hashes=bytes(sums))
        await self._records.verified.put(str(digest), known)

    async def _make_room(self, size: int) -> None:
        """Take down what was used longest ago until ``size`` bytes more are within the limit; raises StoreFull."""
        if size > self.limit:
            raise StoreFull(f"{size} bytes were made where the limit of all is {self.limit}")
        while self.bytes + size > self.limit:
            oldest = next(iter(self._blobs))
            _log.info("shelf.taken_down", digest=str(oldest), bytes=self._blobs[oldest].size)
            await self._take_down(oldest)

    async def _take_down(self, digest: Digest) -> None:
        """A blob goes, and with it the layers that became it."""
        self._blobs.pop(digest, None)
        self._store.release(digest)
        gone = [key for key, made in self._layers.items() if made.digest == str(digest)]
        for key in gone:
            del self._layers[key]
        await asyncio.to_thread(self._write_down, [digest], gone)
        await self._store.drop(digest)

    async def _keep(self, blob: ShelvedBlob) -> None:
        digest = Digest.parse(blob.digest)
        self._blobs[digest] = blob
        await asyncio.to_thread(self._write_down, [digest], ())

    def _write_down(self, blobs: Iterable[Digest], layers: Iterable[tuple[str, str]]) -> None:
        """Make the files of these say what is so by now, whoever has changed it last: several requests may want that at once."""
        with self._writing:
            for digest in blobs:
                _write(self._blob_file(str(digest)), self._blobs.get(digest))
            for key in layers:
                _write(self._layer_file(*key), self._layers.get(key))

    def _blob_file(self, digest: str) -> Path:
        return self._directory / "blobs" / _file_name(digest)

    def _layer_file(self, kind: str, source: str) -> Path:
        return self._directory / "layers" / kind / _file_name(source)

    def _read(self) -> tuple[list[ShelvedBlob], dict[tuple[str, str], MadeLayer]]:
        blobs = [blob for _, blob in _found(self._directory / "blobs", ShelvedBlob)]
        kinds = (self._directory / "layers").glob("*")
        return blobs, {(kind.name, made.source): made for kind in kinds for _, made in _found(kind, MadeLayer)}


def _file_name(digest: str) -> str:
    return f"{digest.replace(':', '-')}.json"


def _found(directory: Path, kind: type[T]) -> Iterator[tuple[Path, T]]:
    for file in directory.glob("*.json"):
        try:
            yield file, msgspec.json.decode(file.read_bytes(), type=kind)
        except (OSError, msgspec.DecodeError) as error:
            _log.warning("shelf.unreadable", file=str(file), error=str(error))


def _write(file: Path, record: msgspec.Struct | None) -> None:
    """The record's file, whole or not at all; without a record there is none."""
    if record is None:
        file.unlink(missing_ok=True)
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = file.with_suffix(".new")
    beside.write_bytes(msgspec.json.encode(record))
    beside.replace(file)
