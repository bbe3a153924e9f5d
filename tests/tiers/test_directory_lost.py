"""The store's directory removed under the instance, taken by another one, or brought back by a power cut to what it was."""

import os
import shutil
from pathlib import Path

import pytest

from registry_proxy.errors import StoreUnusable
from tests.tiers.blobs import CHUNK, keep, loaded, noise, running


async def test_that_the_store_is_in_use_is_on_disk_before_the_first_chunk(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must not bring back the clean state of the last stop: chunks written since would never be counted."""
    async with running(place):
        pass
    synced: set[int] = set()
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.add(os.fstat(descriptor).st_ino), sync(descriptor)))
    async with running(place):
        assert b"false" in (place / "state").read_bytes()
        assert {(place / "state").stat().st_ino, place.stat().st_ino} <= synced


async def test_a_removed_directory_is_made_again_and_locked(place: Path) -> None:
    """The next reservation finds a directory; it belongs to this instance alone, and chunks stay in it."""
    blob = noise(2 * CHUNK)
    async with running(place) as store:
        await keep(store, blob)
        shutil.rmtree(place)
        await keep(store, blob)
        assert await loaded(store, blob, 1) == blob.part(1)
        with pytest.raises(StoreUnusable, match="in use"):
            async with running(place):
                pass
    async with running(place) as store:
        assert await loaded(store, blob, 0) == blob.part(0)


async def test_a_removed_directory_that_somebody_else_has_taken_is_left_to_him(place: Path) -> None:
    """Two instances never write to one directory: the first goes on without a store."""
    blob = noise(CHUNK)
    async with running(place) as store:
        shutil.rmtree(place)
        async with running(place) as other:
            assert await store.reserve(CHUNK, blob.digest) is None or not store.writable
            await keep(other, blob)
            assert await loaded(other, blob, 0) == blob.data
