"""A repository over time: roots, refreshes, roll-backs, restarts, servers that fail."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web

from registry_proxy.errors import (
    BlobUnknown,
    ConfigInvalid,
    RepositoryRefused,
    Trouble,
    UpstreamDown,
    UpstreamUnreachable,
)
from tests.fakes.cvmfs import CvmfsServer, Publisher
from tests.sources.cvmfs.conftest import Clock, Opener, read

ONE, TWO, THREE = b"one" * 100, b"two" * 100, b"three" * 100
LETTERS = [".cvmfspublished", "certificate", ".cvmfswhitelist"]
DAY = 86400


def asked(server: CvmfsServer) -> list[str]:
    """What was asked for since the last call, by kind."""
    kinds = {"C": "catalog", "X": "certificate", "P": "chunk"}
    found = [path if path.startswith(".") else kinds.get(path[-1], "object") for path in server.asked]
    server.asked.clear()
    return found


async def settle(source: object) -> None:
    """Wait for what runs in the background."""
    while tasks := source._repository._tasks:  # type: ignore[attr-defined]
        await asyncio.wait(set(tasks))


async def test_requests(publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
    """A cold read costs five requests, the next blob one, the same blob and a missing one none."""
    publisher.blob(ONE)
    publisher.blob(TWO)
    publisher.publish()
    async with open_source(server.url) as source:
        assert await read(source, ONE) == ONE
        assert asked(server) == [*LETTERS, "catalog", "object"]
        assert await read(source, TWO) == TWO
        assert asked(server) == ["object"]
        assert await read(source, ONE) == ONE
        with pytest.raises(BlobUnknown):
            await read(source, THREE)
        assert asked(server) == []


async def test_many_at_once_cost_one_look(publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
    """Concurrent cold readers share every request."""
    publisher.blob(ONE)
    publisher.publish()
    async with open_source(server.url) as source:
        assert await asyncio.gather(*(read(source, ONE) for _ in range(20))) == [ONE] * 20
    assert asked(server) == [*LETTERS, "catalog", "object"]


async def test_a_new_revision_is_seen_after_the_time_to_live(
    publisher: Publisher, server: CvmfsServer, open_source: Opener, clock: Clock
) -> None:
    """A refresh runs behind a request, which is answered from the old root; a miss is remembered until then."""
    publisher.blob(ONE)
    publisher.publish(ttl=240)
    async with open_source(server.url) as source:
        assert await read(source, ONE) == ONE
        publisher.blob(TWO)
        publisher.publish(ttl=240)
        clock.now += 239
        asked(server)
        with pytest.raises(BlobUnknown):
            await read(source, TWO)
        assert asked(server) == []
        clock.now += 2
        with pytest.raises(BlobUnknown):
            await read(source, TWO)
        await settle(source)
        assert asked(server) == [".cvmfspublished", ".cvmfswhitelist", "catalog"]
        assert await read(source, TWO) == TWO
        assert source.state().revision == 2


async def test_an_unchanged_root_costs_one_request(
    publisher: Publisher, server: CvmfsServer, open_source: Opener, clock: Clock
) -> None:
    """If the root is the one held, nothing but the manifest is fetched, once for all who come then."""
    publisher.blob(ONE)
    publisher.publish()
    async with open_source(server.url) as source:
        await read(source, ONE)
        asked(server)
        clock.now += 300
        await asyncio.gather(*(read(source, ONE) for _ in range(5)))
        await settle(source)
        assert asked(server) == [".cvmfspublished"]


async def test_hits_do_not_wait_for_a_refresh(
    publisher: Publisher, server: CvmfsServer, open_source: Opener, clock: Clock
) -> None:
    """While the manifest hangs, blobs of the held root are read."""
    publisher.blob(ONE)
    publisher.publish()
    release, asking = asyncio.Event(), asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        asking.set()
        await release.wait()
        return web.Response(status=503)

    async with CvmfsServer(publisher.root) as slow, open_source(slow.url) as source:
        await read(source, ONE)
        slow.hang = {".cvmfspublished": hang}
        clock.now += 300
        assert await read(source, ONE) == ONE
        await asking.wait()
        assert await read(source, ONE) == ONE
        release.set()
        await settle(source)
        assert await read(source, ONE) == ONE


async def test_roll_backs_are_refused(
    publisher: Publisher, server: CvmfsServer, open_source: Opener, clock: Clock, tmp_path: Path
) -> None:
    """An older manifest, rightly signed, changes nothing; not after a restart either."""
    publisher.blob(ONE)
    publisher.publish()
    old = (publisher.root / ".cvmfspublished").read_bytes()
    publisher.blob(TWO)
    publisher.publish()
    async with open_source(server.url) as source:
        assert await read(source, TWO) == TWO
        (publisher.root / ".cvmfspublished").write_bytes(old)
        clock.now += 300
        await read(source, TWO)
        await settle(source)
        assert source.state().revision == 2
        assert "goes back to revision 1" in str(source.state().trouble)
    async with open_source(server.url) as source:
        assert await read(source, TWO) == TWO
        assert source.state().revision == 2
    server.asked.clear()
    clock.now += 31 * DAY
    publisher.write_whitelist(expires=datetime.fromtimestamp(clock.now + 31 * DAY, UTC))
    async with open_source(server.url) as source:
        with pytest.raises(RepositoryRefused, match="goes back"):
            await read(source, ONE)


async def test_a_restart_without_servers(
    publisher: Publisher, server: CvmfsServer, open_source: Opener, clock: Clock
) -> None:
    """Letters and catalogs on disk tell what is there until the whitelist expires; then nothing is believed."""
    publisher.blob(ONE)
    publisher.publish()
    url = server.url
    async with open_source(url) as source:
        await read(source, ONE)
    await server.stop()
    async with open_source(url) as source:
        with pytest.raises(BlobUnknown):
            await read(source, TWO)
        assert source.state().revision == 1
    clock.now += 31 * DAY
    async with open_source(url) as source:
        with pytest.raises(UpstreamDown):
            await read(source, TWO)


async def test_a_warm_restart_costs_one_request(publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
    """After a restart the manifest is asked for; what is on disk is not."""
    publisher.blob(ONE)
    publisher.publish()
    async with open_source(server.url) as source:
        await read(source, ONE)
    asked(server)
    async with open_source(server.url) as source:
        with pytest.raises(BlobUnknown):
            await read(source, TWO)
    assert asked(server) == [".cvmfspublished"]


async def test_an_expired_whitelist_ends_it(
    publisher: Publisher, server: CvmfsServer, open_source: Opener, clock: Clock
) -> None:
    """A root is held through failing refreshes, but not beyond its whitelist; a new whitelist heals it."""
    publisher.blob(ONE)
    publisher.publish()
    async with open_source(server.url) as source:
        await read(source, ONE)
        clock.now += 29 * DAY
        assert await read(source, ONE) == ONE
        await settle(source)
        clock.now += 2 * DAY
        with pytest.raises(RepositoryRefused, match="whitelist has expired"):
            await read(source, ONE)
        asked(server)
        with pytest.raises(UpstreamDown, match="whitelist has expired"):
            await read(source, ONE)
        assert asked(server) == []
        publisher.write_whitelist(expires=datetime.fromtimestamp(clock.now + 30 * DAY, UTC))
        clock.now += 31
        assert await read(source, ONE) == ONE


async def test_a_renewed_whitelist_is_taken_in_time(
    publisher: Publisher, server: CvmfsServer, open_source: Opener, clock: Clock
) -> None:
    """In the last day of a whitelist a new one is looked for, though the root has not changed."""
    publisher.blob(ONE)
    publisher.publish()
    async with open_source(server.url) as source:
        await read(source, ONE)
        clock.now += 29.5 * DAY
        expires = datetime.fromtimestamp(clock.now + 30 * DAY, UTC)
        publisher.write_whitelist(expires=expires)
        await read(source, ONE)
        await settle(source)
        assert source.state().whitelist_expires == expires.replace(minute=0, second=0, microsecond=0).timestamp()


async def test_the_blacklist_is_read_at_each_refresh(
    publisher: Publisher, server: CvmfsServer, open_source: Opener, clock: Clock, tmp_path: Path
) -> None:
    """A certificate put on the blacklist takes the held root away; a blacklist that cannot be read refuses a first look."""
    publisher.blob(ONE)
    publisher.publish()
    blacklist = tmp_path / "blacklist"
    async with open_source(server.url, blacklist=blacklist) as source:
        with pytest.raises(RepositoryRefused, match="blacklist cannot be read"):
            await read(source, ONE)
        blacklist.write_text("# nobody\n")
        clock.now += 31
        assert await read(source, ONE) == ONE
        blacklist.write_text(f"{publisher.fingerprint()}\n")
        clock.now += 300
        await read(source, ONE)
        await settle(source)
        with pytest.raises(Trouble, match="on the blacklist"):
            await read(source, ONE)


async def test_poisoned_letters_heal(publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
    """A manifest that a cache on the way has spoilt is asked for again past it."""
    publisher.blob(ONE)
    publisher.publish()

    def poison(request: web.Request, body: bytes) -> bytes | None:
        spoilt = request.path == "/.cvmfspublished" and "no-cache" not in request.headers.get("Cache-Control", "")
        return body[:-1] if spoilt else None

    server.mischief = poison
    async with open_source(server.url) as source:
        assert await read(source, ONE) == ONE


async def test_letters_of_any_length_are_bounded(
    publisher: Publisher, server: CvmfsServer, open_source: Opener
) -> None:
    """A letter beyond a MiB is not read to its end."""
    publisher.publish()
    server.mischief = lambda request, _: b"C" * (4 << 20) if request.path == "/.cvmfspublished" else None
    async with open_source(server.url) as source:
        with pytest.raises(RepositoryRefused, match="more than 1048576 bytes"):
            await read(source, ONE)


async def test_the_next_server_takes_over(publisher: Publisher, server: CvmfsServer, open_source: Opener) -> None:
    """A server that fails is left out; one that lacks an object is passed over for that object alone."""
    publisher.blob(ONE)
    publisher.blob(TWO)
    publisher.publish()
    async with CvmfsServer(publisher.root) as first, open_source(first.url, server.url) as source:
        first.mischief = lambda request, _: (
            None if "." in request.path or request.path[-1] in "CX" else web.Response(status=404)
        )
        assert await read(source, ONE) == ONE
        assert source.state().servers == {first.url: True, server.url: True}
        first.mischief = lambda *_: web.Response(status=503)
        assert await read(source, TWO) == TWO
        assert source.state().servers == {first.url: False, server.url: True}


async def test_dead_servers_fail_at_once_afterwards(
    publisher: Publisher, server: CvmfsServer, open_source: Opener
) -> None:
    """When all servers are gone, one read finds out; the next ones fail without asking."""
    publisher.blob(ONE)
    publisher.blob(TWO)
    publisher.publish()
    async with open_source(server.url) as source:
        await read(source, ONE)
        server.mischief = lambda *_: web.Response(status=500)
        with pytest.raises(Trouble):
            await read(source, TWO)
        asked(server)
        with pytest.raises(UpstreamDown, match="a moment ago"):
            await read(source, TWO)
        assert asked(server) == []
        assert await read(source, ONE) == ONE


async def test_a_slow_look_up_is_left_behind(publisher: Publisher, open_source: Opener) -> None:
    """After the patience the flight may turn to another source; the look-up goes on for the next one."""
    publisher.blob(ONE)
    publisher.publish()
    release = asyncio.Event()

    async def wait(request: web.Request) -> None:
        await release.wait()

    async with CvmfsServer(publisher.root) as server, open_source(server.url, patience=0.05) as source:
        server.hang = {".cvmfswhitelist": wait}
        with pytest.raises(UpstreamUnreachable, match="for a look-up"):
            await read(source, ONE)
        release.set()
        await settle(source)
        asked(server)
        assert await read(source, ONE) == ONE
        assert asked(server) == ["object"]


async def test_leaving_in_mid_look_up(publisher: Publisher, open_source: Opener) -> None:
    """Closing the source ends what runs in the background."""
    publisher.publish()
    arrived, never = asyncio.Event(), asyncio.Event()

    async def wait(request: web.Request) -> None:
        arrived.set()
        await never.wait()

    async with CvmfsServer(publisher.root) as server:
        server.hang = {".cvmfspublished": wait}
        async with open_source(server.url) as source:
            reader = asyncio.create_task(read(source, ONE))
            await arrived.wait()
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
        assert not source._repository._tasks


async def test_wrong_keys_are_named(tmp_path: Path, publisher: Publisher, open_source: Opener) -> None:
    """A master key that is missing, or none, stops the start with its name."""
    for path in (tmp_path / "missing.pub", publisher.root):
        with pytest.raises(ConfigInvalid, match=str(path)):
            async with open_source("http://127.0.0.1:9", keys=(path,)):
                pass
