"""Scrubbing finds what decays in silence, beside a running store."""

import hashlib
import os
from pathlib import Path

from registry_proxy.oci.digest import Digest
from registry_proxy.tiers.schema import VerifiedBlob
from registry_proxy.tiers.scrub import Progress, scrub
from tests.tiers.blobs import CHUNK, files, keep, loaded, noise, running, text


async def scrubbed(place: Path, verified: dict[Digest, VerifiedBlob] | None = None) -> Progress:
    """How far a scrub is at its end."""

    async def find(digest: Digest) -> VerifiedBlob | None:
        return (verified or {}).get(digest)

    last = Progress()
    async for progress in scrub(place, CHUNK, find):
        assert progress.chunks >= last.chunks
        last = progress
    return last


async def test_a_right_store_is_left_as_it_is(place: Path) -> None:
    """Every chunk is hashed, none is lost."""
    blobs = [noise(70 * CHUNK + 5), text(3 * CHUNK), noise(10, 3)]
    async with running(place) as store:
        for blob in blobs:
            await keep(store, blob)
        before = files(place)
        assert await scrubbed(place) == Progress(chunks=75, bytes=sum(len(blob.data) for blob in blobs))
        assert files(place) == before


async def test_decay_under_a_running_store_is_dropped_and_noticed(place: Path) -> None:
    """The wrong files go, whether their sizes changed or not, and the store fetches these chunks again."""
    blob, packed = noise(4 * CHUNK), text(CHUNK)
    async with running(place) as store:
        await keep(store, blob)
        await keep(store, packed)
        for name, file in files(place).items():
            data = bytearray(file.read_bytes())
            if name.endswith(("/0", "/0.lz4")):
                data[50] ^= 1
            elif name.endswith("/1"):
                del data[-40:]
            elif name.endswith("/2"):
                data = data[:20]
            file.write_bytes(data)
        progress = await scrubbed(place)
        assert (progress.chunks, progress.wrong, progress.bytes) == (5, 4, CHUNK)
        assert [await loaded(store, blob, index) for index in range(4)] == [None, None, None, blob.part(3)]
        assert await loaded(store, packed, 0) is None
        assert not store.has(blob.digest, 0)
        await keep(store, blob, 0)
        assert await loaded(store, blob, 0) == blob.part(0)


async def test_a_chunk_of_a_verified_blob_must_be_that_chunk(place: Path) -> None:
    """A file that is right in itself but not what was verified is wrong."""
    blob, other = noise(2 * CHUNK), noise(2 * CHUNK, 1)
    async with running(place) as store:
        await keep(store, blob)
        await keep(store, other)
    one, two = (file for name, file in sorted(files(place).items()) if name.endswith("/1"))
    swapped = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(swapped)
    hashes = b"".join(hashlib.sha256(blob.part(index)).digest() for index in range(2))
    progress = await scrubbed(place, {blob.digest: VerifiedBlob(2 * CHUNK, CHUNK, hashes)})
    assert (progress.chunks, progress.wrong) == (4, 1)
    assert not any(name.startswith(blob.digest.hex[:2] + "/") and name.endswith("/1") for name in files(place))


async def test_leftovers_are_removed(place: Path) -> None:
    """What is not named like a chunk, old temporary files and empty directories go; a running write's file stays."""
    blob = noise(CHUNK)
    async with running(place) as store:
        await keep(store, blob)
        group = next(iter(files(place).values())).parent
        (group / "0.tmp").write_bytes(b"x")
        (group / "77").write_bytes(b"x")
        (group.parent / "notes").mkdir()
        (group.parent / "notes" / "a").write_bytes(b"x")
        (place / "chunks" / "zz").mkdir()
        (place / "chunks" / "stray").write_bytes(b"x")
        (place / "tmp" / "old.part").write_bytes(b"x")
        os.utime(place / "tmp" / "old.part", (0, 0))
        (place / "tmp" / "new.part").write_bytes(b"x")
        progress = await scrubbed(place)
        assert (progress.chunks, progress.wrong, progress.leftovers) == (1, 0, 5)
        assert len(files(place)) == 1
        assert {entry.name for entry in (place / "chunks").iterdir()} == {blob.digest.hex[:2]}
        assert {entry.name for entry in (place / "tmp").iterdir()} == {"new.part"}
        await keep(store, noise(CHUNK, 1))


async def test_an_empty_store_is_scrubbed_at_once(place: Path) -> None:
    """There is always a last word."""
    async with running(place):
        assert await scrubbed(place) == Progress()


async def test_a_file_evicted_meanwhile_is_nothing_wrong(place: Path) -> None:
    """Scrub and eviction do not disturb each other."""
    blob = noise(2 * CHUNK)
    async with running(place) as store:
        await keep(store, blob)
        steps = scrub(place, CHUNK)
        await anext(steps)
        await store.drop(blob.digest)
        last = [progress async for progress in steps][-1]
        assert (last.wrong, last.leftovers) == (0, 0)
