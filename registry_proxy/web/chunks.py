"""Chunks as objects for other instances and the Squids between (docs/architecture.md, "Chunk objects").

The answer is the same for everybody who asks for the URL: 200, whole, no Vary, no word about ranges or names. Everything but a
chunk and the hashes of a verified blob is ``no-store``.
"""

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from registry_proxy.access.caller import Caller
from registry_proxy.access.guard import Guard
from registry_proxy.errors import BlobUnknown, LoopDetected, NoSuchEndpoint, NotSoon, RegistryProxyError, UpstreamBusy
from registry_proxy.net.hops import HOPS, instances
from registry_proxy.oci import names
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan import routing
from registry_proxy.plan.chunk_objects import FOREVER, NAMESPACE, REPOSITORY, ChunkHashes, ChunkName, repr_digest
from registry_proxy.plan.chunks import Span
from registry_proxy.plan.ranges import Part
from registry_proxy.plan.routing import Asked
from registry_proxy.pull.pieces import Piece
from registry_proxy.sources.base import BlobPlace
from registry_proxy.web import body, failures
from registry_proxy.web.answer import Answer, Reply, lines
from registry_proxy.web.exchange import Exchange
from registry_proxy.web.outline import Outline

_BUSY = 429
_NO_STORE = lines(("Cache-Control", "no-store"))


class ChunkObject(Protocol):
    """A whole chunk; its receiver closes ``piece.chunk``."""

    @property
    def piece(self) -> Piece:
        """Its bytes."""

    @property
    def sha256(self) -> bytes:
        """Their hash."""


class PublicChunks(Protocol):
    """Chunks of blobs that anybody may pull."""

    @property
    def chunk_size(self) -> int:
        """Bytes of every chunk but a blob's last."""

    async def chunk(self, place: BlobPlace, index: int) -> ChunkObject:
        """One chunk, within a second. Raises BlobUnknown, NotSoon, NoRoom or Trouble."""

    async def hashes(self, place: BlobPlace) -> ChunkHashes:
        """The hashes of a verified blob's chunks; raises BlobUnknown."""

    async def places(self, digest: Digest) -> Sequence[BlobPlace]:
        """The repositories where this blob was named or found, the newest first."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """The endpoint. ``identity``: this instance in ``Via``; ``upstreams``: the source hosts that are configured; ``guard``: their gates.

    No client of chunks has a name, so a gate lets in those that it knows by their address alone.
    """

    source: PublicChunks
    identity: str
    upstreams: Collection[SourceHost]
    guard: Guard

    async def answer(self, exchange: Exchange, stall: float) -> Reply:
        """The answer, its body already on its way if it is a chunk. ``stall``: as for blobs."""
        try:
            return await self._answer(exchange, stall)
        except RegistryProxyError as error:
            if exchange.response is not None:
                raise
            exchange.error = f"{type(error).__name__}: {error}"
            return _refusal(exchange, error)

    async def _answer(self, exchange: Exchange, stall: float) -> Reply:
        name = ChunkName.parse(exchange.path)
        hops = instances(exchange.header("Via") or "")
        if self.identity in hops:
            raise LoopDetected("this request has been here before: instances are each other's parents")
        if name.chunk_size != self.source.chunk_size:
            raise NoSuchEndpoint(f"chunks here have {self.source.chunk_size} bytes (store.chunk_size)")
        place = await self._place(exchange, name)
        token = HOPS.set(hops)
        try:
            if name.index is None:
                return _hashes(exchange, await self.source.hashes(place))
            return await _chunk(exchange, await self.source.chunk(place, name.index), stall)
        finally:
            HOPS.reset(token)

    async def _place(self, exchange: Exchange, name: ChunkName) -> BlobPlace:
        """Where the request says that the blob lives, or where it is known to (CVMFS clients, who read grafts here, cannot say).

        Raises BlobUnknown without any of that, NameInvalid, UnknownUpstream.
        """
        namespace, repository = exchange.header(NAMESPACE), exchange.header(REPOSITORY)
        upstream = routing.upstream(Asked(header=namespace), self.upstreams) if namespace else None
        if upstream is not None and repository is not None:
            place = BlobPlace(upstream, names.repository(repository), name.digest)
        else:
            known = (one for one in await self.source.places(name.digest) if self._may(exchange, one))
            found = next(known, None)
            if found is None:
                raise BlobUnknown(f"say where the blob lives: {NAMESPACE} and {REPOSITORY}")
            place = found
        exchange.upstream = place.upstream
        if not self._may(exchange, place):
            raise BlobUnknown(f"what {place.upstream} has is not for everybody")
        return place

    def _may(self, exchange: Exchange, place: BlobPlace) -> bool:
        """True if whoever is where the client is may read there: an answer is kept by caches, and given to others."""
        gate = self.guard.get(place.upstream)
        stranger = Caller(None, exchange.caller.address)
        return place.upstream in self.upstreams and (gate is None or gate.at_hand(stranger, place.repository))


@dataclass(frozen=True, slots=True)
class _OnePiece:
    piece: Piece

    async def pieces(self, part: int) -> AsyncGenerator[Piece, None]:  # noqa: ARG002  # a Reader of one part
        """The piece."""
        yield self.piece


async def _chunk(exchange: Exchange, chunk: ChunkObject, stall: float) -> Reply:
    piece = chunk.piece
    try:
        headers = lines(
            ("Content-Type", "application/octet-stream"),
            ("Cache-Control", FOREVER),
            ("ETag", f'"{chunk.sha256.hex()}"'),
            ("Repr-Digest", repr_digest(chunk.sha256)),
        )
        if exchange.head:
            return exchange.outlined(200, headers, len(piece))
        plan = Outline(200, headers, (Part(Span(0, len(piece))),), len(piece))
        return await body.send(exchange, plan, _OnePiece(piece), stall)
    finally:
        piece.chunk.close()


def _hashes(exchange: Exchange, hashes: ChunkHashes) -> Answer:
    headers = (("Content-Type", "application/json"), ("Cache-Control", FOREVER))
    return exchange.answer(200, *headers, body=msgspec.json.encode(hashes))


def _refusal(exchange: Exchange, error: RegistryProxyError) -> Answer:
    """What an edge is told: nothing that a cache may keep; "come back" (429) burns no forward proxy, where 503 would."""
    refusal = failures.response(exchange, error)
    refusal.headers += _NO_STORE
    if isinstance(error, NotSoon | UpstreamBusy):
        refusal.status = _BUSY
    return refusal
