"""A real CVMFS repository, published by the official tools, mounted through FUSE by an independent client: read, hung and killed.

Where the machine has no Rust to build that client with, `test_mounted` does the same over a published tree behind bindfs.
"""

import hashlib
import json
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.interop.harness.front import Front, front
from tests.interop.harness.fuseclient import LINES, Client, fuse_client
from tests.interop.harness.process import wait_for
from tests.interop.harness.proxy import SOURCE, Proxy, registry_proxy
from tests.interop.harness.registries import push_blob, registry
from tests.interop.test_mounted import CONFIG, state
from tests.interop.test_squid import blob_bytes, read
from tests.setup.crates import cvmfs_client

REPOSITORY = "library/fixture"
LIMIT = 1.0  # seconds: cvmfs.time_limit
READERS = 6
BLOBS = {f"sha256:{digest}": int(size) for digest, size in map(str.split, LINES.read_text().splitlines())}


@pytest.fixture
def client(work: Path) -> Iterator[Client]:
    """The mount."""
    program = cvmfs_client()
    assert program is not None, "conftest.py leaves this file out where there is no cargo"
    with fuse_client(program, work) as running:
        yield running


@pytest.fixture
def upstream(client: Client, work: Path) -> Iterator[Front]:
    """A registry that has the same blobs, behind an nginx that counts."""
    with registry(work / "storage", work) as address, front(address, work) as counted:
        for digest in BLOBS:
            push_blob(address, REPOSITORY, client.blob(digest))
        yield counted


@pytest.fixture
def proxy(client: Client, upstream: Front, work: Path) -> Iterator[Proxy]:
    """A cold instance that has it mounted."""
    config = work / "mounted.toml"
    config.write_text(CONFIG.format(path=client.point, limit=LIMIT), encoding="utf-8")
    with registry_proxy(work / "proxy", {SOURCE: upstream.url}, "--config", config) as running:
        yield running
        client.vanish()  # a process with a call in a FUSE program that is stopped cannot even be killed


def url(proxy: Proxy, digest: str) -> str:
    return f"{proxy.url}/v2/{SOURCE}/{REPOSITORY}/blobs/{digest}"


def test_every_blob_comes_through_the_mount(proxy: Proxy, upstream: Front) -> None:
    """All blobs of the fixture, chunked or in a nested catalog, byte for byte, whole and in a range; the registry sends none of it."""
    for digest, size in BLOBS.items():
        assert read(url(proxy, digest))[:2] == (digest, size)
    largest = max(BLOBS, key=BLOBS.__getitem__)
    asked = urllib.request.Request(url(proxy, largest), headers={"Range": "bytes=2000000-4999999"})
    with (
        urllib.request.urlopen(asked, timeout=30) as part,
        urllib.request.urlopen(url(proxy, largest), timeout=30) as whole,
    ):
        assert part.status == 206
        assert hashlib.sha256(part.read()).digest() == hashlib.sha256(whole.read()[2000000:5000000]).digest()
    assert blob_bytes(upstream) < 10_000  # headers of answers, and the blob of no bytes
    with urllib.request.urlopen(f"{proxy.url}/stats", timeout=10) as answer:
        assert json.load(answer)["store"]["bytes"] == 0


@pytest.mark.parametrize("how", ["hung", "killed"])
def test_the_client_goes_away_under_load(
    how: str, proxy: Proxy, client: Client, upstream: Front, figure: Callable[[str], None]
) -> None:
    """Readers see the right bytes and a pause no longer than the limit; afterwards the mount is skipped."""
    other, largest = sorted(BLOBS, key=BLOBS.__getitem__)[-2:]
    went: list[int] = []

    def end(sofar: int) -> None:
        if not went:
            went.append(sofar)
            client.hang() if how == "hung" else client.vanish()

    def one(number: int) -> tuple[str, int, float]:
        return read(url(proxy, largest if number % 2 else other), end if number == 0 else lambda _: None)

    with ThreadPoolExecutor(READERS) as pool:
        got = list(pool.map(one, range(READERS)))
        after = list(pool.map(one, range(1, READERS)))  # nothing of these is in the kernel's cache
    for digest, size, pause in (*got, *after):
        assert BLOBS[digest] == size
        assert pause < LIMIT + 1.5
    figure(f"FUSE client {how} under {READERS} readers: longest pause {max(each[2] for each in (*got, *after)):.2f} s")
    assert went
    client.drop_kernel_cache()
    wait_for("the mount is left alone", lambda: bool(read(url(proxy, other))) and state(proxy).startswith("rests: "))
    assert blob_bytes(upstream) > 1 << 20
