"""A store killed at any instant starts again and is right (I3)."""

import random
import subprocess
import sys
from pathlib import Path

from registry_proxy.oci.digest import Digest
from tests.tiers.blobs import CHUNK, disk_use, loaded, running
from tests.tiers.writer import BLOBS

LIMIT = 120 * (CHUNK + 4096)
ROUNDS = 5


def run_and_kill(place: Path, seed: int, after: int) -> None:
    """Let a writer commit some chunks, then kill it in the middle of the next ones."""
    command = [sys.executable, "-m", "tests.tiers.writer", str(place), str(LIMIT), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        try:
            for _ in range(after):
                assert writer.stdout.readline()
        finally:
            writer.kill()


async def test_a_store_killed_at_any_instant_starts_and_is_right(place: Path) -> None:
    """Time and again: every chunk is whole or missing, nothing half-written stays, sums and limit are true, it goes on."""
    chance = random.Random(20261121)
    for seed in range(ROUNDS):
        run_and_kill(place, seed, chance.randrange(20, 250))
        assert disk_use(place) <= LIMIT
        async with running(place, LIMIT) as store:
            assert list((place / "tmp").iterdir()) == []
            assert not store._accounts.doubtful
            found = 0
            for blob in BLOBS:
                for index in range(blob.grid.count):
                    data = await loaded(store, blob, index)
                    assert data in (None, blob.part(index))
                    assert store.has(blob.digest, index) is (data is not None)
                    found += data is not None
            assert store.stats().chunks == found > 0
            room = await store.reserve(CHUNK, Digest.of(b"new"))
            assert room is not None
            room.release()
