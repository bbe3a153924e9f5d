"""Wish lists of images (DUCC)."""

import contextlib

from registry_proxy.errors import ConfigInvalid
from registry_proxy.export.wishlist import Pattern, parse


def run(data: bytes) -> None:
    """A list is read or refused; a pattern can be asked about tags."""
    with contextlib.suppress(ConfigInvalid):
        for wish in parse(data.decode("utf-8", "replace")):
            assert str(wish)
            if isinstance(wish, Pattern):
                wish.matches("3.20.1")
