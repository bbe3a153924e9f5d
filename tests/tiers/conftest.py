"""Fixtures of the tiers' tests."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def never_blocking(no_blocking: None) -> None:
    """Nothing in these rooms blocks the event loop, but for the look-up of a chunk."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "store"
