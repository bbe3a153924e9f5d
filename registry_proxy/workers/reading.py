"""A read on the fetcher's side: an ordinary reader, whose pieces are named to the server instead of written to a client.

Each piece stays open here until the server asks for the next one: it is not evicted before the server has opened it.
"""

from collections.abc import Mapping, Sequence
from contextlib import aclosing, closing

from registry_proxy.plan.ranges import Part
from registry_proxy.pull.blobs import OpenBlob
from registry_proxy.pull.pieces import Piece
from registry_proxy.pull.public import ChunkObject
from registry_proxy.tiers.openfiles import StoredChunk
from registry_proxy.workers import calls
from registry_proxy.workers.calls import Bytes, Found, Here, Over, Reading, Show
from registry_proxy.workers.wire import Wire


async def give_parts(wire: Wire, blob: OpenBlob, parts: Sequence[Part], sent: Mapping[int, bytes] | None) -> Over:
    """Name the pieces of these parts as the server asks for them. Raises what a reader raises, and WireLost."""
    chunk = blob.chunk_size
    async with blob.read(parts, sent) as reader:
        wire.send(calls.pack(Reading()))
        calls.step(await wire.receive())
        for number, part in enumerate(parts):
            at = part.span.start
            async with aclosing(reader.pieces(number)) as pieces:
                async for piece in pieces:
                    await _give(wire, piece, at // chunk)
                    at += len(piece)
    return Over(blob.verified)


async def give_chunk(wire: Wire, chunk: ChunkObject, index: int) -> Over:
    """Name a chunk that anybody may pull."""
    with closing(chunk.piece.chunk):
        await _give(wire, chunk.piece, index, chunk.sha256)
    return Over(verified=False)


async def _give(wire: Wire, piece: Piece, index: int, sha256: bytes = b"") -> None:
    """Name a piece, or send it where the server cannot have it from the store; until the server asks for the next one."""
    found = _found(piece, index, sha256)
    wire.send(calls.pack(found))
    step = calls.step(await wire.receive())
    if isinstance(step, Show):
        wire.send(calls.pack(Bytes(index, piece.read(), piece.tier, sha256)))
        calls.step(await wire.receive())


def _found(piece: Piece, index: int, sha256: bytes) -> Found:
    chunk = piece.chunk
    if isinstance(chunk, StoredChunk):
        return Here(index, piece.start, piece.stop, piece.tier, chunk.identity, sha256)
    return Bytes(index, piece.read(), piece.tier, sha256)
