"""Fixtures of the tiers' tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx


@pytest.fixture(autouse=True)
def no_blocking() -> Iterator[None]:
    """Nothing in these rooms blocks the event loop, but for the look-up of a chunk."""
    with blockbuster_ctx("registry_proxy") as blockbuster:
        for function in blockbuster.functions.values():
            function.can_block_in("registry_proxy/tiers/store.py", "open_chunk")
        yield


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "store"
