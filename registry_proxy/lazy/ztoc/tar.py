"""The entries of a tar that streams by, as Go's archive/tar sees them: what the reference builder writes into a zTOC.

Names are bytes, as they stand in the archive. What Go's reader refuses is refused, and so are the forms for which a zTOC cannot
be right: sparse files (their bytes are not where the entry says), global PAX headers, links that carry data (the reference tool
refuses the first two or writes an index its own client rejects).
"""

from collections.abc import Callable

from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.ztoc import header
from registry_proxy.lazy.ztoc.header import BLOCK, ZEROS, Entry


class TarScanner:
    """Feed it the tar; ``receive`` gets each entry when its header has passed. Payloads are skipped, not held."""

    def __init__(self, largest: int, receive: Callable[[Entry], None]) -> None:
        self._largest = largest
        self._receive = receive
        self._held = bytearray()
        self._want = BLOCK
        self._skip = self._pad = 0
        self._meta: tuple[bytes, int] | None = None  # flag and size of the payload being collected
        self._records: dict[bytes, bytes] = {}
        self._long: dict[bytes, bytes] = {}
        self._zero_seen = False
        self.ended = False
        self.position = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the tar; whatever follows its end is ignored. Raises LayerRefused."""
        at, count = 0, len(data)
        while at < count and not self.ended:
            if self._skip:
                step = min(self._skip, count - at)
                self._skip -= step
                at += step
                self.position += step
                continue
            step = min(self._want - len(self._held), count - at)
            part = bytes(data[at : at + step])
            at += step
            self.position += step
            if step == self._want:
                self._block(part)
                continue
            self._held += part
            if len(self._held) == self._want:
                held = bytes(self._held)
                self._held.clear()
                self._block(held)

    def finish(self) -> None:
        """Nothing follows; raises LayerRefused if an entry is cut short. A missing end mark is not an error."""
        if not self.ended and (self._held or self._meta or self._skip > self._pad):
            raise LayerRefused("the layer's tar is cut short")

    def _block(self, block: bytes) -> None:
        if self._meta is not None:
            (flag, size), self._meta, self._want = self._meta, None, BLOCK
            self._take_meta(flag, block[:size])
        elif block == ZEROS:
            self.ended = self._zero_seen
            self._zero_seen = True
        elif self._zero_seen:
            raise LayerRefused("the layer's tar goes on after a zero block")
        else:
            self._header(block)

    def _header(self, block: bytes) -> None:
        flag, size = block[156:157], header.stated_size(block)
        if size < 0 or size > self._largest:
            raise LayerRefused(f"a tar entry claims {size} bytes")
        if flag not in header.META:
            self._entry(block, size)
            return
        if size > header.LONGEST_META:
            raise LayerRefused(f"a tar entry's extended header has {size} bytes")
        self._meta = (flag, size)
        self._want = -(-size // BLOCK) * BLOCK
        if not size:
            self._block(b"")

    def _take_meta(self, flag: bytes, payload: bytes) -> None:
        if flag == b"x":
            self._records = header.pax_records(payload)
        else:
            self._long[flag] = header.text(payload)

    def _entry(self, block: bytes, size: int) -> None:
        found = header.entry(block, self.position, size, self._records, self._long)
        if self._records or self._long:
            self._records, self._long = {}, {}
        self._check(found)
        self._receive(found)
        self._pad = -found.size % BLOCK
        self._skip = found.size + self._pad

    def _check(self, found: Entry) -> None:
        if found.size < 0 or found.size > self._largest:
            raise LayerRefused(f"{found.name[:200]!r} claims {found.size} bytes")
        if found.size and found.kind != "reg":
            raise LayerRefused(f"{found.name[:200]!r} is a {found.kind} that claims to have contents")
        if any(key.startswith(b"GNU.sparse.") for key, _ in found.records):
            raise LayerRefused(f"{found.name[:200]!r} is a sparse file: a zTOC cannot say where its bytes are")
