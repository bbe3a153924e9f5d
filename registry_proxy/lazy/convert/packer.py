"""Entries in, gzip members out: one for each file or chunk, several at once, written in order.

The calling thread cuts the tar into members, hashes it and writes; threads hash chunks and compress. A member holds the contents that it
begins with and what stands between them and the next: padding, then headers; where very many headers follow, they have members of their
own. Memory: the members under way, a chunk each or ``_BATCH`` bytes of them, two batches more than twice the threads.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from registry_proxy.lazy.convert import codec, names, toc
from registry_proxy.lazy.convert.rows import Row, Rows
from registry_proxy.lazy.convert.tar import Item, Piece
from registry_proxy.lazy.convert.values import ConvertedLayer, Options
from registry_proxy.lazy.estargz import footer
from registry_proxy.lazy.ztoc.header import BLOCK, ZEROS
from registry_proxy.oci.digest import Digest

_BATCH: Final = 1 << 19
"""Bytes of members given to a thread at once: enough that handing them over costs nothing."""

_LANDMARKS: Final = frozenset((names.PREFETCH, names.NO_PREFETCH))

Packed = list[tuple[bytes, list[str]]]
"""Of each member: its compressed bytes and the digests of its chunks."""


@dataclass(slots=True)
class _Member:
    """``rows``: with each, where its contents lie in the member (nowhere for entries without); ``begun``: by contents, as all but the
    layer's first; ``data``: the whole of it, once it is closed."""

    parts: list[Piece] = field(default_factory=list)
    size: int = 0
    rows: list[tuple[Row, int, int]] = field(default_factory=list)
    begun: bool = False
    data: bytes = b""

    def put(self, part: Piece) -> None:
        self.parts.append(part)
        self.size += len(part)

    def chunks(self) -> list[tuple[int, int]]:
        return [(start, stop) for _, start, stop in self.rows if stop > start]


class Packer:
    """Add the entries in the order of the copy, then finish. ``tick`` is told the bytes of the tar written so far, now and then."""

    def __init__(
        self, out: BinaryIO, rows: toc.TocWriter, pool: ThreadPoolExecutor, options: Options, tick: Callable[[int], None]
    ) -> None:  # fmt: skip
        self._out = out
        self._toc = rows
        self._pool = pool
        self._options = options
        self._tick = tick
        self._longest = options.chunk_size + options.min_chunk + _BATCH
        self._compress = codec.gzipper(options.level)
        self._rows = Rows()
        self._member = _Member()
        self._batch: list[_Member] = []
        self._batch_size = 0
        self._under_way: deque[tuple[list[_Member], Future[Packed]]] = deque()
        self._digest = hashlib.sha256()
        self._diff = hashlib.sha256()
        self._written = self._uncompressed = self._entries = 0

    def add(self, item: Item, content: Iterable[Piece]) -> None:
        """The next entry, and its ``item.entry.size`` bytes of contents."""
        entry = item.entry
        row = first = self._rows.of(entry)
        self._entries += 1
        self._member.put(item.blocks)
        if not entry.size:
            self._member.rows.append((row, 0, 0))
            if self._member.size > self._longest:
                self._close_member()
            return
        whole = hashlib.sha256() if entry.size > self._options.chunk_size else None
        at = 0
        for parts in _cut(content, self._options.chunk_size):
            self._chunk(row, parts)
            for part in parts:
                at += len(part)
                if whole:
                    whole.update(part)
            row = Row(first.name, "chunk", chunk_offset=at)
        if whole:
            first.digest = f"sha256:{whole.hexdigest()}"
        self._member.put(ZEROS[: -entry.size % BLOCK])

    def finish(self) -> ConvertedLayer:
        """Write the rest, the TOC and the footer."""
        self._close_member()
        self._submit()
        while self._under_way:
            self._write_next()
        toc_digest, start = self._toc.finish(), self._written
        for plain, packed in toc.packed(self._toc.tar()):
            self._diff.update(plain)
            self._uncompressed += len(plain)
            self._write(packed)
        self._write(footer.encode(start))
        return ConvertedLayer(
            digest=Digest("sha256", self._digest.hexdigest()),
            size=self._written,
            diff_id=Digest("sha256", self._diff.hexdigest()),
            toc_digest=toc_digest,
            uncompressed_size=self._uncompressed,
            files=self._entries - 1,  # the landmark is none of the layer's
        )

    def _chunk(self, row: Row, parts: list[Piece]) -> None:
        """A chunk's contents, at the begin of a member or behind other contents in one."""
        if not self._member.begun or self._member.size >= self._options.min_chunk or row.name in _LANDMARKS:
            self._close_member()
            self._member.begun = True
        start = self._member.size
        for part in parts:
            self._member.put(part)
        count = self._member.size - start
        row.inner_offset = start
        if count == self._options.chunk_size:
            row.chunk_size = count
        self._member.rows.append((row, start, start + count))

    def _close_member(self) -> None:
        member, self._member = self._member, _Member()
        member.data = b"".join(member.parts)
        member.parts.clear()
        self._diff.update(member.data)
        self._uncompressed += member.size
        self._tick(self._uncompressed)
        self._batch.append(member)
        self._batch_size += member.size
        if self._batch_size >= _BATCH:
            self._submit()

    def _submit(self) -> None:
        work = [(member.data, member.chunks()) for member in self._batch]
        self._under_way.append((self._batch, self._pool.submit(_packed, self._compress, work)))
        self._batch, self._batch_size = [], 0
        if len(self._under_way) > 2 * self._options.threads:
            self._write_next()

    def _write_next(self) -> None:
        members, future = self._under_way.popleft()
        done = future.result()
        for member, (packed, digests) in zip(members, done, strict=True):
            known = iter(digests)
            for row, start, stop in member.rows:
                if stop > start:
                    row.offset = self._written
                    row.chunk_digest = next(known)
                    if row.size == stop - start:
                        row.digest = row.chunk_digest
                self._toc.add(row)
            self._write(packed)

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._digest.update(data)
        self._written += len(data)


def _packed(compress: Callable[[bytes], bytes], work: list[tuple[bytes, list[tuple[int, int]]]]) -> Packed:
    """In a thread: some members."""
    return [
        (
            compress(data),
            [f"sha256:{hashlib.sha256(memoryview(data)[start:stop]).hexdigest()}" for start, stop in chunks],
        )
        for data, chunks in work
    ]


def _cut(content: Iterable[Piece], size: int) -> Iterator[list[Piece]]:
    """The content in chunks of this size, the last one perhaps shorter."""
    parts: list[Piece] = []
    room = size
    for piece in content:
        at = 0
        while at < len(piece):
            part = piece[at : at + room]
            parts.append(part)
            at += len(part)
            room -= len(part)
            if not room:
                yield parts
                parts, room = [], size
    if parts:
        yield parts
