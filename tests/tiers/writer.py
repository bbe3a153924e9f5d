"""A process that writes and evicts until it is killed: ``python -m tests.tiers.writer DIR LIMIT SEED``.

It prints a line per committed chunk.
"""

import asyncio
import random
import sys
from pathlib import Path

from tests.tiers.blobs import CHUNK, keep, loaded, noise, running, text

BLOBS = [noise(30 * CHUNK + 9, seed) for seed in range(6)] + [text(30 * CHUNK + 9, seed) for seed in range(6)]


async def write(place: Path, limit: int, seed: int) -> None:
    """Put and read chunks of the known blobs in random order, for ever; most of the room is for fewer than all of them."""
    chance = random.Random(seed)

    async def work() -> None:
        while True:
            blob = chance.choice(BLOBS)
            index = chance.randrange(blob.grid.count)
            if await loaded(store, blob, index) is None:
                await keep(store, blob, index)
                print(index, flush=True)
            if chance.random() < 0.01:
                await store.drop(blob.digest)
            if chance.random() < 0.02:
                await store.save()

    async with running(place, limit) as store, asyncio.TaskGroup() as workers:
        for _ in range(4):
            workers.create_task(work())


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
