"""A file system of its own for a store, and clients that ask until they have the truth."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from tests.fakes.instance import HOST
from tests.fakes.upstream import REPOSITORY
from tests.fakes.wire import Answer, Wire

QUICKLY = 30.0
"""Seconds in which a failure must be told, and in which all must be well again, on the busiest machine; normally it is one or two."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB of its own."""
    if os.geteuid():
        pytest.skip("needs the right to mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Fill a disk to its last byte; the file that does it."""
    hog = disk / "hog"
    with hog.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    assert shutil.disk_usage(disk).free == 0
    return hog


class Reachable(Protocol):
    """Something that a client can connect to."""

    def wire(self) -> Wire:
        """A connection."""


async def tried(b: Reachable, digest: Digest, span: Span | None = None) -> Answer | None:
    """One answer with a blob or a part of it; None for no answer at all, or one that was cut. Fails if it takes too long."""
    wanted = (f"Range: bytes={span.start}-{span.stop - 1}",) if span else ()
    try:
        async with asyncio.timeout(QUICKLY), b.wire() as wire:
            answer = await wire.ask(f"/v2/{REPOSITORY}/blobs/{digest}?ns={HOST}", *wanted)
    except (ConnectionError, asyncio.IncompleteReadError):
        return None
    return answer if answer.complete else None


async def right(b: Reachable, digest: Digest, data: bytes, span: Span | None = None) -> bool:
    """True if a blob or a part of it came, as it is; False if that failed visibly. A complete answer that is wrong is an error."""
    answer = await tried(b, digest, span)
    if answer is None or answer.status >= 400:
        return False
    assert answer.status == (206 if span else 200)
    assert answer.body == (data[span.start : span.stop] if span else data)
    return True


async def right_at_last(b: Reachable, digest: Digest, data: bytes, span: Span | None = None) -> None:
    """Ask until a blob or a part of it comes; fails if nothing is well again in time."""
    async with asyncio.timeout(QUICKLY):
        while not await right(b, digest, data, span):  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.05)
