"""Chunks landing in another order than they lie in the blob."""

import pytest

from registry_proxy.oci.digest import Digest
from registry_proxy.pull import landing as landing_module
from registry_proxy.pull.landing import BlobLanding
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.tiers.base import Chunk
from registry_proxy.tiers.store import ChunkStore
from tests.fakes.instance import CHUNK, Benches, noise


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5, 6, 7), (0, 2, 3, 1, 4, 5, 6, 7), (3, 0, 1, 2, 5, 4, 6, 7)])
async def test_the_running_hash_keeps_up_with_overlapping_flights(
    bench: Benches, monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...]
) -> None:
    """A chunk that lands before its turn is read back once, soon: not all that follows it, at the end."""
    data = noise(8 * CHUNK)
    digest = Digest.of(data)
    read_back: list[int] = []
    load = ChunkStore.load_chunk
    monkeypatch.setattr(ChunkStore, "load_chunk", lambda self, d, g, i: (read_back.append(i), load(self, d, g, i))[1])
    async with bench() as b:
        store, records = b.instance.store, b.instance.records
        landing = BlobLanding(digest, store.grid(len(data)), store, records, Metrics(), None)
        room = await store.reserve(len(data), digest)
        for index in order:
            chunk = await landing.land(index, bytearray(data[index * CHUNK : (index + 1) * CHUNK]), room, "test")
            chunk.close()
            if index == order[-2]:
                before_the_end = len(read_back)
    assert landing.verified
    assert len(read_back) == before_the_end
    assert read_back == sorted(set(order) - {i for i in order if all(j in order[: order.index(i)] for j in range(i))})


async def test_a_chunk_whose_hash_could_not_be_read_is_hashed_again(
    bench: Benches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails to read back a chunk's hash, once, does not keep the blob from being verified for ever."""
    data = noise(3 * CHUNK)
    digest = Digest.of(data)
    async with bench() as b:
        store, records = b.instance.store, b.instance.records
        landing = BlobLanding(digest, store.grid(len(data)), store, records, Metrics(), None)
        room = await store.reserve(len(data), digest)

        async def land(index: int) -> None:
            chunk = await landing.land(index, bytearray(data[index * CHUNK : (index + 1) * CHUNK]), room, "test")
            chunk.close()

        async def broken(_: Chunk) -> bytes:
            raise OSError("I/O error")

        await land(0)
        with monkeypatch.context() as disk:
            disk.setattr(landing_module, "sha256_of", broken)
            with pytest.raises(OSError, match="I/O"):
                await land(1)
        await land(2)
    assert landing.verified
