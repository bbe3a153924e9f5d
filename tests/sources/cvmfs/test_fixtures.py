"""The repositories that the official tools have published."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from registry_proxy.errors import RegistryProxyError, RepositoryRefused, Trouble
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from registry_proxy.sources.cvmfs.source import CvmfsSource
from tests.fakes.cvmfs import CvmfsServer
from tests.sources.cvmfs.conftest import Opener, read, sha256

NAMES = ("sha1.cvmfs.test", "shake.cvmfs.test")


@asynccontextmanager
async def reading(
    fixtures: Path, name: str, opener: Opener, *more: str
) -> AsyncIterator[tuple[CvmfsServer, CvmfsSource]]:
    async with CvmfsServer(fixtures / "repos" / name) as server:
        keys = (fixtures / "keys" / f"{name}.pub",)
        async with opener(server.url, *more, repository=name, keys=keys) as source:
            yield server, source


@pytest.mark.parametrize("name", NAMES)
async def test_every_blob_is_read(fixtures: Path, blobs: dict[Digest, int], name: str, open_source: Opener) -> None:
    """Each blob, whole, hashes to its digest and has its size."""
    async with reading(fixtures, name, open_source) as (_, source):
        for digest, size in blobs.items():
            data = await read(source, digest, size=size)
            assert (len(data), sha256(data)) == (size, digest.hex)


@pytest.mark.parametrize("name", NAMES)
async def test_spans_fetch_only_what_they_touch(
    fixtures: Path, blobs: dict[Digest, int], name: str, open_source: Opener
) -> None:
    """A few bytes in a chunked blob cost one chunk; the bytes are those of the whole."""
    digest = next(each for each, size in blobs.items() if size == 6303801)
    async with reading(fixtures, name, open_source) as (server, source):
        few = await read(source, digest, Span(3_000_000, 3_000_100), 6303801)
        assert [path for path in server.asked if path.endswith("P")] == server.asked[-1:]
        whole = await read(source, digest)
        assert few == whole[3_000_000:3_000_100]
        across = await read(source, digest, Span(2_108_870, 2_108_872))
        assert across == whole[2_108_870:2_108_872]


@pytest.mark.parametrize("letter", ["expired", "stranger"])
async def test_wrong_whitelists_are_refused(
    fixtures: Path, blobs: dict[Digest, int], letter: str, open_source: Opener
) -> None:
    """An expired whitelist, and one signed with another master key, give nothing."""
    wrong = (fixtures / "letters" / f"sha1.cvmfs.test.whitelist-{letter}").read_bytes()
    async with reading(fixtures, NAMES[0], open_source) as (server, source):
        server.mischief = lambda request, _: wrong if request.path.endswith("whitelist") else None
        with pytest.raises(RepositoryRefused):
            await read(source, next(iter(blobs)))


def objects(name: str) -> list[str]:
    """Every file that a reader of all blobs fetches, or might: all but the reflog and the history."""
    root = Path(__file__).parents[4] / "shared" / "fixtures" / "cvmfs" / "repos" / name
    files = (str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file())
    return [file for file in files if not file.endswith(("H", "reflog"))]


@pytest.mark.parametrize(("name", "path"), [(name, path) for name in NAMES for path in objects(name)])
async def test_no_changed_byte_is_served(
    fixtures: Path, blobs: dict[Digest, int], name: str, path: str, open_source: Opener
) -> None:
    """With one byte of one file changed on the only server, each blob is right or fails; with a second server, all are right."""

    def flip(request: web.Request, body: bytes) -> bytes | None:
        if request.path != f"/{path}" or not body:
            return None
        middle = len(body) // 2
        return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]

    right = wrong = 0
    async with reading(fixtures, name, open_source) as (server, source):
        server.mischief = flip
        for digest in blobs:
            try:
                assert sha256(await read(source, digest)) == digest.hex
                right += 1
            except Trouble:
                wrong += 1
        fetched = path in server.asked
    assert bool(wrong) == fetched
    async with CvmfsServer(fixtures / "repos" / name) as sound:
        shutil.rmtree(source._directory)
        async with reading(fixtures, name, open_source, sound.url) as (server, source):
            server.mischief = flip
            for digest in blobs:
                assert sha256(await read(source, digest)) == digest.hex
    assert right + wrong == len(blobs)


async def test_another_name_is_refused(fixtures: Path, blobs: dict[Digest, int], open_source: Opener) -> None:
    """A repository is only what its letters say it is."""
    keys = (fixtures / "keys" / "sha1.cvmfs.test.pub",)
    async with (
        CvmfsServer(fixtures / "repos" / "sha1.cvmfs.test") as server,
        open_source(server.url, repository="other.cvmfs.test", keys=keys) as source,
    ):
        with pytest.raises(RegistryProxyError, match="not of other"):
            await read(source, next(iter(blobs)))
