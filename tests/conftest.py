"""Fixtures that several rooms' tests use."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from tests.fakes.instance import Benches, benches
from tests.fakes.upstream import FakeUpstream

_LOOK_UPS = ("open_chunk", "_find", "has", "missing")


@pytest.fixture
def no_blocking() -> Iterator[None]:
    """Nothing blocks the event loop, but for the look-up of a chunk."""
    with blockbuster_ctx("registry_proxy") as blockbuster:
        for function in blockbuster.functions.values():
            for name in _LOOK_UPS:
                function.can_block_in("registry_proxy/tiers/store.py", name)
        yield


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    """A fake registry with ranges."""
    async with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture
def bench(tmp_path: Path, upstream: FakeUpstream, no_blocking: None) -> Benches:
    """Makes instances over the upstream of the test, all with the same store."""
    return benches(tmp_path / "store", upstream)
