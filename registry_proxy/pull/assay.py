"""A whole blob hashed as its pieces pass, because a tier beside the store gives them: its own checks say that they are what was
published there, not that they are what the digest says."""

import asyncio

from registry_proxy.errors import ContentCorrupt
from registry_proxy.oci.digest import Digest
from registry_proxy.pull.pieces import Piece
from registry_proxy.tiers.stack import TierBlob


class Assay:
    """Takes the pieces of a whole blob, in order."""

    def __init__(self, source: TierBlob, digest: Digest) -> None:
        self._source = source
        self._digest = digest
        self._hasher = digest.hasher()

    async def take(self, piece: Piece) -> None:
        """The next piece; from the tier, or from elsewhere where that failed."""
        await asyncio.to_thread(lambda: self._hasher.update(piece.read()))

    async def settle(self) -> None:
        """All bytes have passed. Raises ContentCorrupt if they are wrong; the tier's copy is not used again then."""
        if self._hasher.hexdigest() != self._digest.hex:
            self._source.reject()
            raise ContentCorrupt(f"what {self._source.tier} has does not hash to {self._digest}")
