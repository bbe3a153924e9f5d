"""Blobs as repositories hold them: compressed or not, in chunks, in nested catalogs, elsewhere; and wrong in each way."""

import asyncio
import os
import random
import sqlite3
import tracemalloc
import zlib
from pathlib import Path

import pytest
from aiohttp import web

from registry_proxy.errors import BlobUnknown, Trouble, UpstreamBroken
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from registry_proxy.sources.base import Priority, Urgency
from registry_proxy.sources.cvmfs import catalogs, objects
from tests.fakes.cvmfs import RMD160, SHA1, SHAKE128, CvmfsServer, File, Publisher, blob_path
from tests.sources.cvmfs.conftest import Opener, place, read

KIB = 1024
CONTENT = random.Random(4).randbytes(300 * KIB) + bytes(100 * KIB)


@pytest.mark.parametrize("tag", [SHA1, RMD160, SHAKE128])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("chunk", [None, 64 * KIB])
async def test_every_way_to_store_a_blob(
    publisher: Publisher, server: CvmfsServer, open_source: Opener, tag: str, compressed: bool, chunk: int | None
) -> None:
    """Whatever the algorithm, with or without compression and chunks, spans are the blob's bytes."""
    publisher.blob(CONTENT, tag=tag, compressed=compressed, chunk=chunk)
    publisher.publish()
    spans = [Span(0, 1), Span(70 * KIB, 130 * KIB), Span(0, len(CONTENT)), Span(len(CONTENT) - 1, len(CONTENT))]
    async with open_source(server.url) as source:
        for span in spans:
            assert await read(source, CONTENT, span, len(CONTENT)) == CONTENT[span.start : span.stop]
        assert await read(source, CONTENT) == CONTENT
        assert await read(source, CONTENT, Span(5, len(CONTENT) + 5)) == CONTENT[5:]


async def test_a_span_costs_the_chunks_it_touches(
    publisher: Publisher, server: CvmfsServer, open_source: Opener
) -> None:
    """Chunks beside the span are not fetched, and a chunk that was just fetched is not fetched again."""
    publisher.blob(CONTENT, chunk=64 * KIB)
    publisher.publish()
    async with open_source(server.url) as source:
        for start in range(100 * KIB, 160 * KIB, 10 * KIB):
            await read(source, CONTENT, Span(start, start + 10 * KIB))
    assert len([path for path in server.asked if path.endswith("P")]) == 2


async def test_many_chunks(publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
    """A blob with more chunks than are looked up at once is read whole."""
    content = random.Random(5).randbytes(3000)
    publisher.blob(content, chunk=10, compressed=False)
    publisher.publish()
    async with open_source(server.url) as source:
        assert await read(source, content) == content
        assert await read(source, content, Span(1995, 2999)) == content[1995:2999]


async def test_the_empty_blob(publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
    """Nothing needs no object."""
    publisher.blob(b"")
    publisher.publish()
    async with open_source(server.url) as source:
        assert await read(source, b"", None, 0) == b""
    assert len(server.asked) == 4


async def test_nested_catalogs(publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
    """Each blob is found in the catalog of the longest prefix, through those above it; each catalog is fetched once."""
    contents = [bytes([n]) * 50 for n in range(20)]
    paths = [publisher.blob(content) for content in contents]
    deep = paths[0].rpartition("/")[0]
    publisher.nested = ("/blobs/sha256", deep)
    publisher.publish()
    async with open_source(server.url) as source:
        assert [await read(source, content) for content in contents] == contents
        with pytest.raises(BlobUnknown):
            await read(source, b"nobody's")
    assert len([path for path in server.asked if path.endswith("C")]) == 3


class TestExternal:
    async def test_chunks_are_ranges(self, publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
        """A chunk of external data is a range of the file's own path on the external server."""
        path = publisher.blob(CONTENT, external=True, compressed=False, chunk=64 * KIB)
        publisher.publish()
        async with CvmfsServer(publisher.root.parent / "data") as data:
            _write(data.root, path, CONTENT)
            async with open_source(server.url, external=(data.url,)) as source:
                assert await read(source, CONTENT, Span(70_000, 70_010)) == CONTENT[70_000:70_010]
                assert data.asked == [path[1:]]
                assert data.headers[0]["Range"] == "bytes=65536-131071"
                assert await read(source, CONTENT) == CONTENT

    async def test_whole_files(self, publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
        """An unchunked external file is one plain GET, from the first external server that has the right bytes."""
        path = publisher.blob(CONTENT, external=True, compressed=False)
        publisher.publish()
        async with (
            CvmfsServer(publisher.root.parent / "wrong") as wrong,
            CvmfsServer(publisher.root.parent / "data") as data,
        ):
            _write(wrong.root, path, CONTENT[1:] + b"x")
            _write(data.root, path, CONTENT)
            async with open_source(server.url, external=(wrong.url, data.url)) as source:
                assert await read(source, CONTENT) == CONTENT
                assert len(wrong.asked) == 2
                assert "Range" not in data.headers[0]

    async def test_a_server_without_ranges_is_no_use(
        self, publisher: Publisher, server: CvmfsServer, open_source: Opener
    ) -> None:
        """200 in answer to a chunk's range is refused, as is another range."""
        publisher.blob(CONTENT, external=True, compressed=False, chunk=64 * KIB)
        publisher.publish()
        async with open_source(server.url, external=(server.url,)) as source:
            for answer in (
                web.Response(body=CONTENT),
                web.Response(status=206, body=CONTENT[:9], headers={"Content-Range": "bytes 0-8/9"}),
            ):
                server.mischief = lambda request, _, answer=answer: answer if "blobs" in request.path else None
                with pytest.raises(Trouble):
                    await read(source, CONTENT)
                source._external._states.clear()
                source._external._states |= source._native._states

    async def test_without_an_external_server(
        self, publisher: Publisher, server: CvmfsServer, open_source: Opener
    ) -> None:
        """External data without a server for it is as good as not there."""
        publisher.blob(CONTENT, external=True, compressed=False)
        publisher.publish()
        async with open_source(server.url) as source:
            with pytest.raises(BlobUnknown, match="external"):
                await read(source, CONTENT)


def _write(root: Path, path: str, content: bytes) -> None:
    file = root / path[1:]
    file.parent.mkdir(parents=True)
    file.write_bytes(content)


class TestRefusals:
    async def test_unknown_blobs(self, publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
        """A blob, a directory, another algorithm that is not there is BlobUnknown: the flight goes on to the next source."""
        publisher.files["/blobs/sha256/aa/" + "a" * 64 + "/file"] = File(b"inside")
        publisher.publish()
        async with open_source(server.url) as source:
            for digest in (Digest("sha256", "a" * 64), Digest("sha256", "b" * 64), Digest("sha512", "c" * 128)):
                with pytest.raises(BlobUnknown):
                    await read(source, digest)

    async def test_private_blobs(self, publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
        """A blob that is not for everybody is neither asked for nor looked up."""
        publisher.blob(CONTENT)
        publisher.publish()
        async with open_source(server.url, share=False) as source:
            with pytest.raises(BlobUnknown, match="not asked"):
                await read(source, CONTENT)
        assert not server.asked

    async def test_doubted_blobs(self, publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
        """A blob that turned out wrong is not had from here for a while; others are."""
        publisher.blob(CONTENT)
        publisher.blob(CONTENT[1:])
        publisher.publish()
        async with open_source(server.url) as source:
            source.doubt(Digest.of(CONTENT))
            with pytest.raises(BlobUnknown, match="not asked"):
                await read(source, CONTENT)
            assert await read(source, CONTENT[1:]) == CONTENT[1:]

    async def test_another_size(self, publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
        """A file of another size than the blob's, or without the span, is no use."""
        publisher.blob(CONTENT)
        publisher.publish()
        async with open_source(server.url) as source:
            with pytest.raises(UpstreamBroken, match="which has 5"):
                await read(source, CONTENT, None, 5)
            with pytest.raises(UpstreamBroken, match="nothing at byte"):
                await read(source, CONTENT, Span(len(CONTENT), len(CONTENT) + 1))

    async def test_objects_too_large_to_verify(
        self, publisher: Publisher, server: CvmfsServer, open_source: Opener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A blob in one object beyond the bound is left to the next source; in chunks it is delivered."""
        monkeypatch.setattr("registry_proxy.sources.cvmfs.source.MAX_OBJECT", 100 * KIB)
        publisher.blob(CONTENT)
        publisher.blob(CONTENT[1:], chunk=90 * KIB)
        publisher.blob(CONTENT[2:], chunk=110 * KIB)
        publisher.publish()
        async with open_source(server.url) as source:
            with pytest.raises(BlobUnknown, match="without chunks"):
                await read(source, CONTENT)
            assert await read(source, CONTENT[1:]) == CONTENT[1:]
            with pytest.raises(UpstreamBroken, match="chunk of"):
                await read(source, CONTENT[2:])

    @pytest.mark.parametrize("chunk", [None, 64 * KIB])
    async def test_bombs(
        self, publisher: Publisher, server: CvmfsServer, open_source: Opener, chunk: int | None
    ) -> None:
        """An object that inflates to more, or to less, than the catalog says is refused, though its hash is right."""
        for content, size in ((bytes(9_000_000), 1000), (bytes(1000), 9_000_000)):
            path = publisher.blob(content, chunk=chunk)
            publisher.wrong_sizes[path] = size
            publisher.publish()
            async with open_source(server.url) as source:
                with pytest.raises(Trouble):
                    await read(source, content)

    async def test_endless_bodies(self, publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
        """A body is cut where it becomes longer than it can be."""
        publisher.blob(CONTENT, compressed=False)
        publisher.publish()
        server.mischief = lambda _, body: body + bytes(20_000_000) if len(body) > 300 * KIB else None
        async with open_source(server.url) as source:
            with pytest.raises(Trouble, match="more bytes than"):
                await read(source, CONTENT)

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE chunks SET offset = offset + 1 WHERE offset > 0",
            "DELETE FROM chunks WHERE offset = 0",
            "UPDATE chunks SET size = size + 1000000",
            "UPDATE chunks SET hash = x'00'",
            "UPDATE chunks SET hash = 'text'",
            "UPDATE catalog SET size = 'text' WHERE flags & 4",
            "UPDATE catalog SET size = -1 WHERE flags & 4",
            "UPDATE catalog SET flags = NULL",
            "UPDATE catalog SET flags = flags | 0x700",
            "UPDATE catalog SET flags = flags | 0x1000",
            "UPDATE catalog SET flags = (flags & ~64)",
            "DROP TABLE chunks",
            "DROP TABLE catalog",
        ],
    )
    async def test_catalogs_that_make_no_sense(
        self, publisher: Publisher, server: CvmfsServer, open_source: Opener, statement: str
    ) -> None:
        """A catalog may be signed and wrong: that is trouble, never wrong bytes."""
        publisher.blob(CONTENT, chunk=64 * KIB)
        publisher.publish()
        with sqlite3.connect(publisher.root / "catalog.db") as database:
            database.execute(statement)
        database.close()
        data = (publisher.root / "catalog.db").read_bytes()
        publisher.write_manifest(publisher.put(zlib.compress(data), "C"), len(data))
        async with open_source(server.url) as source:
            with pytest.raises(Trouble):
                await read(source, CONTENT)

    async def test_a_catalog_of_noise(self, publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
        """What is no SQLite file is trouble; so is a catalog larger than said."""
        for data, size in ((b"noise" * 100, 500), (b"noise" * 100, 499)):
            publisher.write_whitelist()
            publisher.revision += 1
            publisher.write_manifest(publisher.put(zlib.compress(data), "C"), size)
            async with open_source(server.url) as source:
                with pytest.raises(Trouble):
                    await read(source, CONTENT)


async def test_a_poisoned_cache_heals(publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
    """A wrong object is asked for again past the caches, of the same server."""
    publisher.blob(CONTENT)
    publisher.publish()

    def poison(request: web.Request, body: bytes) -> bytes | None:
        whole = request.path[-1] not in "CX" and request.path.startswith("/data")
        return b"poison" if whole and "no-cache" not in request.headers.get("Cache-Control", "") else None

    server.mischief = poison
    async with open_source(server.url) as source:
        assert await read(source, CONTENT) == CONTENT
        assert source.state().servers == {server.url: True}


async def test_catalogs_outside_data(publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
    """A repository with alternative paths keeps its root catalog beside the manifest."""
    publisher.blob(CONTENT)
    publisher.publish(extra="Ayes\n")
    (root,) = (publisher.root / "data").rglob("*C")
    root.rename(publisher.root / f".cvmfsalt-{root.parent.name}{root.name}")
    async with open_source(server.url) as source:
        assert await read(source, CONTENT) == CONTENT


class TestCatalogsOnDisk:
    async def test_damage_is_noticed(
        self, publisher: Publisher, server: CvmfsServer, open_source: Opener, tmp_path: Path
    ) -> None:
        """A catalog that was damaged on disk is fetched again by the next process; half-written ones are cleared away."""
        publisher.blob(CONTENT)
        publisher.publish()
        async with open_source(server.url) as source:
            await read(source, CONTENT)
        (file,) = (tmp_path / "cvmfs/catalogs").iterdir()
        data = file.read_bytes()
        file.write_bytes(data[:5000] + b"!" + data[5001:])
        file.with_name("half.tmp").write_bytes(b"")
        server.asked.clear()
        async with open_source(server.url) as source:
            assert await read(source, CONTENT) == CONTENT
        assert len([path for path in server.asked if path.endswith("C")]) == 1
        assert [each.read_bytes() for each in (tmp_path / "cvmfs/catalogs").iterdir()] == [data]

    async def test_a_directory_that_vanishes(
        self, publisher: Publisher, server: CvmfsServer, open_source: Opener, tmp_path: Path
    ) -> None:
        """A catalog that somebody removed is fetched again."""
        publisher.blob(CONTENT)
        publisher.blob(CONTENT[1:])
        publisher.publish()
        async with open_source(server.url) as source:
            await read(source, CONTENT)
            for file in (tmp_path / "cvmfs/catalogs").iterdir():
                file.unlink()
            assert await read(source, CONTENT[1:]) == CONTENT[1:]

    async def test_they_are_bounded(
        self, publisher: Publisher, server: CvmfsServer, open_source: Opener, tmp_path: Path
    ) -> None:
        """Beyond the bound the catalogs used last stay; a single one beyond it is refused."""
        contents = [bytes([n]) * 50 for n in range(12)]
        publisher.nested = tuple({publisher.blob(content).rpartition("/")[0] for content in contents})
        publisher.publish()
        size = (publisher.root / "catalog.db").stat().st_size
        async with open_source(server.url) as source:
            source._catalogs._room = 4 * size
            assert [await read(source, content) for content in contents] == contents
            assert sum(each.stat().st_size for each in (tmp_path / "cvmfs/catalogs").iterdir()) <= 4 * size
            source._catalogs._room = 100
            source._catalogs._checked.clear()
            for file in (tmp_path / "cvmfs/catalogs").iterdir():
                file.unlink()
            with pytest.raises(UpstreamBroken, match="more than 100"):
                await source._catalogs.provide(source._repository.trusted.root)


class TestObjectsOnDisk:
    async def test_they_are_bounded(self, publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
        """Whoever needs room waits until somebody has read on; nobody's files stay."""
        contents = [random.Random(n).randbytes(200 * KIB) for n in range(8)]
        for content in contents:
            publisher.blob(content, chunk=50 * KIB)
        publisher.publish()
        async with open_source(server.url) as source:
            source._objects._room = 250 * KIB
            assert await asyncio.gather(*(read(source, content) for content in contents)) == contents
            assert source._objects._used <= 250 * KIB
            assert not source._objects._readers

    async def test_leaving_early(self, publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
        """A reader that leaves in mid-delivery holds nothing."""
        publisher.blob(CONTENT, chunk=64 * KIB)
        publisher.publish()
        async with open_source(server.url) as source:
            async with source.open(place(CONTENT), None, None, Urgency(Priority.FOREGROUND)) as delivery:
                assert delivery.origin == server.url
                assert (delivery.total, delivery.span, delivery.ranged) == (len(CONTENT), Span(0, len(CONTENT)), True)
                iterator = delivery.__aiter__()
                assert await anext(iterator) == CONTENT[: 64 * KIB]
            assert not source._objects._readers
            await iterator.aclose()
            assert await read(source, CONTENT) == CONTENT

    async def test_leaving_while_an_object_comes(
        self, publisher: Publisher, server: CvmfsServer, open_source: Opener
    ) -> None:
        """A reader cancelled while its first object is under way leaves neither reader nor bytes behind."""
        path = publisher.blob(CONTENT, external=True, compressed=False)
        publisher.publish()
        arrived, never = asyncio.Event(), asyncio.Event()

        async def wait(request: web.Request) -> None:
            arrived.set()
            await never.wait()

        server.hang = {path[1:]: wait}
        async with open_source(server.url, external=(server.url,)) as source:
            reader = asyncio.create_task(read(source, CONTENT))
            await arrived.wait()
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            assert (source._objects._used, dict(source._objects._readers)) == (0, {})

    async def test_a_full_disk(
        self, publisher: Publisher, server: CvmfsServer, open_source: Opener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where objects cannot be written, that is trouble of ours and no server's."""
        publisher.blob(CONTENT)
        publisher.publish()

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        async with open_source(server.url) as source:
            monkeypatch.setattr(os, "pwrite", full)
            with pytest.raises(Trouble, match="No space left"):
                await read(source, CONTENT)
            monkeypatch.undo()
            assert source.state().servers == {server.url: True}
            assert await read(source, CONTENT) == CONTENT

    def test_the_bound_leaves_room_for_several(self) -> None:
        """No object may be so large that readers wait for each other."""
        assert 4 * objects.MAX_OBJECT <= objects._ROOM
        assert catalogs._ROOM > objects._ROOM


async def test_a_large_repository(publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
    """100,000 blobs in one catalog: a read takes no more requests than any other, and memory for a few pieces of it."""
    publisher.blob(CONTENT)
    publisher.publish()
    _fill(publisher.root / "catalog.db", 100_000)
    data = (publisher.root / "catalog.db").read_bytes()
    assert len(data) > 14_000_000
    publisher.revision += 1
    publisher.write_manifest(publisher.put(zlib.compress(data, 1), "C"), len(data))
    del data
    server.sendfile = True
    async with open_source(server.url) as source:
        tracemalloc.start()
        try:
            assert await read(source, CONTENT) == CONTENT
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(server.asked) == 5
    assert peak < 8 << 20


def _fill(catalog: Path, count: int) -> None:
    noise = random.Random(1)
    rows = (
        (
            noise.getrandbits(63),
            index,
            0,
            0,
            1,
            noise.randbytes(20),
            1,
            0o644,
            0,
            0,
            4,
            noise.randbytes(32).hex(),
            "",
            0,
            0,
            None,
        )
        for index in range(count)
    )
    with sqlite3.connect(catalog) as database:
        database.executemany(f"INSERT INTO catalog VALUES ({', '.join('?' * 16)})", rows)
    database.close()


def test_paths() -> None:
    """The publisher of these tests puts blobs where they are looked for."""
    assert blob_path(b"") == "/blobs/sha256/e3/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
