"""The shelf of what was made here: its files say what is so, whoever changes it at the same time."""

import asyncio
import io

from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository
from registry_proxy.tiers.shelf import MadeLayer, Shelf
from tests.fakes.instance import HOST, Bench, Benches

DATA = b"what was made"
DIGEST = Digest.of(DATA)
SOURCE = Digest.of(b"what it was made of")
REPOSITORIES = [Repository(f"team/app{number}") for number in range(12)]  # fewer than are kept


def shelf_of(bench: Bench) -> Shelf:
    """The shelf of an instance."""
    return bench.instance.manifests._images._shelf


async def test_many_admitted_at_once(bench: Benches) -> None:
    """Repositories that get the same blob at the same moment all have it, after a restart as well."""
    async with bench() as one:
        shelf = shelf_of(one)
        await shelf.put(io.BytesIO(DATA), len(DATA), DIGEST)
        await asyncio.gather(*(shelf.admit(HOST, each, DIGEST) for each in REPOSITORIES))
    async with bench() as two:
        found = [shelf_of(two).size_at(HOST, each, DIGEST) for each in REPOSITORIES]
    assert found == [len(DATA)] * len(REPOSITORIES)


async def test_who_leaves_while_it_is_written_down(bench: Benches) -> None:
    """A request that ends in the middle of that is in nobody's way."""
    async with bench() as one:
        shelf = shelf_of(one)
        await shelf.put(io.BytesIO(DATA), len(DATA), DIGEST)
        for index, each in enumerate(REPOSITORIES):
            task = asyncio.create_task(shelf.admit(HOST, each, DIGEST))
            await asyncio.sleep(0)
            if index % 2:
                task.cancel()
        await shelf.note("estargz", MadeLayer(str(SOURCE), str(DIGEST), len(DATA)))
        await shelf.admit(HOST, Repository("team/last"), DIGEST)
    async with bench() as two:
        assert shelf_of(two).size_at(HOST, Repository("team/last"), DIGEST) == len(DATA)
        assert await shelf_of(two).layer("estargz", SOURCE) is not None
