"""SIGHUP: what of a changed configuration holds at once, and that nothing else is disturbed. SIGTERM: what is kept."""

import asyncio
import io
import json
import logging
import os
import signal
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from structlog.testing import LogCapture

from registry_proxy import app
from registry_proxy.config import Account, Config, Logging, Policy, Server, Store, Tls, Upstream, load
from registry_proxy.config.changes import changes
from registry_proxy.config.units import Seconds
from registry_proxy.config.users import with_users
from registry_proxy.oci.names import SourceHost
from registry_proxy.telemetry import logs
from tests.fakes.certificates import Authority
from tests.fakes.faults import Gate
from tests.fakes.instance import CHUNK, HOST, Benches, noise
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.fakes.wire import Wire

DATA = noise(8 * CHUNK)


class Running:
    """An instance that was started as ``serve`` does, with its configuration in a file."""

    def __init__(self, file: Path, captured: list[MutableMapping[str, Any]]) -> None:
        self.file = file
        self.urls: list[str] = []
        self._captured = captured

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.urls[0].partition("//")[2].rpartition(":")
        return host, int(port)

    def events(self, name: str) -> list[MutableMapping[str, Any]]:
        return [entry for entry in self._captured if entry["event"] == name]

    async def reload(self, text: str) -> MutableMapping[str, Any]:
        """Write the file, send SIGHUP, and wait for what is said about it."""
        before = len(self._outcomes())
        self.file.write_text(text)
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(10), Wire(self.address) as wire:
            while len(self._outcomes()) == before:
                await wire.ask("/healthz")
        return self._outcomes()[-1]

    def _outcomes(self) -> list[MutableMapping[str, Any]]:
        return [entry for entry in self._captured if entry["event"] in ("config.reloaded", "config.refused")]


Run = Callable[[str], Awaitable[Running]]


@pytest.fixture
async def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    """Starts an instance from the text of a configuration file."""
    monkeypatch.setattr(logs, "configure", lambda _: None)
    capture = LogCapture()
    structlog.configure(processors=[capture])
    tasks = []

    async def run_(text: str) -> Running:
        file = tmp_path / "proxy.toml"
        file.write_text(text)
        environ = {"XDG_CACHE_HOME": str(tmp_path)}
        running = Running(file, capture.entries)
        ready = asyncio.Event()

        def tell(urls: list[str]) -> None:
            running.urls = urls
            ready.set()

        def read() -> Config:
            return with_users(load(file, environ))

        serving = app.serve(read(), ready=tell, reread=read)
        tasks.append(asyncio.create_task(serving))
        await asyncio.wait_for(ready.wait(), 10)
        return running

    yield run_
    for task in tasks:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 10)
    structlog.reset_defaults()


def configuration(upstream: FakeUpstream, server: str = "", more: str = "") -> str:
    return f"""
        default_upstreams = false
        [server]
        listen = ["127.0.0.1:0"]
        {server}
        [store]
        chunk_size = "64KiB"
        [upstream."{HOST}"]
        urls = ["{upstream.url}"]
        {more}
    """


async def test_limits_change_under_open_connections(run: Run, upstream: FakeUpstream) -> None:
    """A changed limit holds at once for connections that are open, and an answer under way goes on."""
    digest = upstream.add_blob(DATA)
    upstream.gate = Gate()
    running = await run(configuration(upstream))
    async with Wire(running.address) as reader, Wire(running.address) as other:
        reader.send(f"/v2/{REPOSITORY}/blobs/{digest}?ns={HOST}")
        await upstream.ledger.until_asked(1, "blob", "GET")
        path = f"/v2/{REPOSITORY}/blobs/{digest}?ns={HOST}"
        said = await running.reload(configuration(upstream, "max_ranges = 1\nidle_timeout = 60"))
        assert (said["event"], said["changed"]) == ("config.reloaded", "server.idle_timeout, server.max_ranges")
        upstream.gate.release(len(DATA) * 4)
        assert (await reader.answer()).body == DATA
        assert (await other.ask(path, "Range: bytes=0-1,4-5")).status != 206


async def test_a_broken_file_changes_nothing(run: Run, upstream: FakeUpstream) -> None:
    """It is one line that names the file and the key; the old configuration goes on, and a right file is taken later."""
    running = await run(configuration(upstream))
    said = await running.reload(configuration(upstream, "drain = 'soon'"))
    assert said["event"] == "config.refused"
    assert said["error"].startswith(f"{running.file}: server.drain: ")
    for text in ("[server", "a = " + "[" * 50_000, "a = " + "{ a = " * 50_000, "a = " + "9" * 5_000):
        said = await running.reload(text)
        assert (said["event"], said["error"].startswith(f"{running.file}: ")) == ("config.refused", True)
    said = await running.reload(configuration(upstream, "drain = 1"))
    assert (said["event"], said["changed"]) == ("config.reloaded", "server.drain")


async def test_what_needs_a_restart_is_named(run: Run, upstream: FakeUpstream) -> None:
    """Keys that cannot change while it runs are in the line, each time, and do not change."""
    running = await run(configuration(upstream))
    account = 'tag_fresh = "1h"\naccount = { username = "u", password = "p" }'
    text = configuration(upstream, more=f'{account}\n[policy]\npatience = "1s"')
    waits = f'upstream."{HOST}".account, upstream."{HOST}".tag_fresh, policy.patience'
    for _ in range(2):
        said = await running.reload(text)
        assert (said["changed"], said["needs_restart"]) == ("", waits)
    digest = upstream.add_blob(DATA)
    upstream.auth, upstream.public_pull = "basic", False
    async with Wire(running.address) as wire:
        assert (await wire.ask(f"/v2/{REPOSITORY}/blobs/{digest}?ns={HOST}")).status == 403


async def test_a_switch_to_offline_and_back(run: Run, upstream: FakeUpstream) -> None:
    """Offline holds at once, for manifests, blobs and lists; what is kept is served, and back online all is as before."""
    digest, other = upstream.add_blob(DATA), upstream.add_blob(noise(CHUNK, 1))
    upstream.add_image(tag="v1")
    kept = [f"/v2/{REPOSITORY}/blobs/{digest}?ns={HOST}", f"/v2/{REPOSITORY}/manifests/v1?ns={HOST}"]
    cold = [f"/v2/{REPOSITORY}/blobs/{other}?ns={HOST}", f"/v2/{REPOSITORY}/tags/list?ns={HOST}"]
    running = await run(configuration(upstream))
    async with Wire(running.address) as wire:
        for path in kept:
            assert (await wire.ask(path)).status == 200
        said = await running.reload(configuration(upstream, more="[policy]\noffline = true"))
        assert (said["changed"], said["needs_restart"]) == ("policy.offline", "")
        asked = len(upstream.requests)
        assert [(await wire.ask(path)).status for path in kept + cold] == [200, 200, 503, 503]
        assert len(upstream.requests) == asked
        assert (await running.reload(configuration(upstream)))["changed"] == "policy.offline"
        assert [(await wire.ask(path)).status for path in kept + cold] == [200] * 4


async def test_tags_age_by_the_new_policy(run: Run, upstream: FakeUpstream) -> None:
    """A tag that is fresh by the old policy is asked for again by a stricter one."""
    upstream.add_image(tag="v1")
    running = await run(configuration(upstream))
    path = f"/v2/{REPOSITORY}/manifests/v1?ns={HOST}"
    async with Wire(running.address) as wire:
        await wire.ask(path)
        asked = len(upstream.asked("manifest"))
        await wire.ask(path)
        assert len(upstream.asked("manifest")) == asked
        await running.reload(configuration(upstream, more='[policy]\ntag_fresh = "0s"'))
        await wire.ask(path)
        assert len(upstream.asked("manifest")) == asked + 1


async def test_upstreams_come_and_go_under_a_reader(run: Run, upstream: FakeUpstream) -> None:
    """An upstream is there after SIGHUP, and then gone: what is being read of it arrives whole, and nothing begins any more."""
    digest = upstream.add_blob(DATA)
    more = f'[upstream."new.example"]\nurls = ["{upstream.url}"]'
    path = f"/v2/{REPOSITORY}/blobs/{digest}?ns=new.example"
    running = await run(configuration(upstream))
    async with Wire(running.address) as reader, Wire(running.address) as other:
        assert (await other.ask(path)).codes == ["NAME_UNKNOWN"]
        assert (await running.reload(configuration(upstream, more=more)))["changed"] == 'upstream."new.example"'
        upstream.gate = Gate()
        reader.send(path)
        await reader.head()
        upstream.gate.release(2 * CHUNK)
        begun = await reader.reader.readexactly(CHUNK)
        assert (await running.reload(configuration(upstream)))["changed"] == 'upstream."new.example"'
        assert (await other.ask(path)).codes == ["NAME_UNKNOWN"]
        assert b"new.example" not in (await other.ask("/stats")).body
        upstream.gate.release(len(DATA))
        assert begun + await reader.reader.readexactly(len(DATA) - CHUNK) == DATA


async def test_an_upstream_moves_under_a_reader(run: Run, upstream: FakeUpstream) -> None:
    """With other URLs, what is being read arrives whole, from wherever; what comes next is asked of the new ones only."""
    other_data = noise(CHUNK, 3)
    async with FakeUpstream() as moved:
        digest, later = upstream.add_blob(DATA), moved.add_blob(other_data)
        moved.add_blob(DATA)
        upstream.gate = Gate()
        running = await run(configuration(upstream))
        async with Wire(running.address) as reader, Wire(running.address) as other:
            reader.send(f"/v2/{REPOSITORY}/blobs/{digest}?ns={HOST}")
            await reader.head()
            upstream.gate.release(2 * CHUNK)
            begun = await reader.reader.readexactly(CHUNK)
            said = await running.reload(configuration(moved))
            assert (said["changed"], said["needs_restart"]) == (f'upstream."{HOST}".urls', "")
            asked = len(upstream.requests)
            assert (await other.ask(f"/v2/{REPOSITORY}/blobs/{later}?ns={HOST}")).body == other_data
            assert len(upstream.requests) == asked
            upstream.gate.release(len(DATA))
            assert begun + await reader.reader.readexactly(len(DATA) - CHUNK) == DATA


async def test_a_guard_comes_at_once(run: Run, upstream: FakeUpstream, tmp_path: Path) -> None:
    """An open upstream that gets readers, or networks, is closed to all others from then on, however often they were served before."""
    hashed = bcrypt.hashpw(b"pw", bcrypt.gensalt(4)).decode()
    (tmp_path / "users").write_text(f"alice:{hashed}\nbob:{hashed}\n")
    upstream.add_image(tag="v1")
    digest = upstream.add_blob(DATA)
    paths = [f"/v2/{REPOSITORY}/manifests/v1?ns={HOST}", f"/v2/{REPOSITORY}/blobs/{digest}?ns={HOST}"]
    running = await run(configuration(upstream))

    async def statuses(*headers: str) -> set[int]:
        async with Wire(running.address) as wire:
            return {(await wire.ask(path, *headers)).status for path in paths * 2}

    def login(user: str) -> str:
        return "Authorization: Basic " + b64encode(f"{user}:pw".encode()).decode()

    def local(readers: str) -> str:
        users = f'[users]\nhtpasswd = "{tmp_path}/users"'
        return configuration(upstream, more=f'access = "local"\nreaders = {{ {readers} }}\n{users}')

    assert await statuses() == {200}
    said = await running.reload(local('alice = ["*"]'))
    assert said["needs_restart"] == ""
    assert [await statuses(), await statuses(login("alice")), await statuses(login("bob"))] == [{401}, {200}, {403}]
    assert (await running.reload(local('bob = ["*"]')))["changed"] == f'upstream."{HOST}".readers'
    assert [await statuses(), await statuses(login("alice")), await statuses(login("bob"))] == [{401}, {403}, {200}]
    (tmp_path / "users").write_text(f"alice:{hashed}\n")
    assert (await running.reload(local('bob = ["*"]')))["changed"] == "htpasswd"
    assert await statuses(login("bob")) == {401}
    (tmp_path / "users").write_text("bob:secret\n")
    said = await running.reload(local('bob = ["*"]'))
    assert (said["event"], "secret" in str(said)) == ("config.refused", False)
    assert await statuses(login("alice")) == {403}
    said = await running.reload(configuration(upstream))
    assert said["needs_restart"] == f'upstream."{HOST}".access, upstream."{HOST}".readers'
    assert await statuses() == {401}


async def test_a_change_that_cannot_be_made_changes_nothing(run: Run, upstream: FakeUpstream, tmp_path: Path) -> None:
    """A file of authorities that is none is named; every upstream, that one included, is served on as before."""
    upstream.add_image(tag="v1")
    path = f"/v2/{REPOSITORY}/manifests/v1?ns="
    running = await run(configuration(upstream))
    (tmp_path / "ca.pem").write_text("none")
    for file, why in (("gone.pem", "No such file or directory"), ("ca.pem", "no certificates (PEM)")):
        more = f'ca = "{file}"\n[upstream."new.example"]\nurls = ["{upstream.url}"]\n[policy]\noffline = true'
        said = await running.reload(configuration(upstream, "max_ranges = 1", more))
        assert (said["event"], said["error"]) == ("config.refused", f'upstream."{HOST}".ca: {tmp_path}/{file}: {why}')
        async with Wire(running.address) as wire:
            assert (await wire.ask(path + HOST)).status == 200
            assert (await wire.ask(path + "new.example")).codes == ["NAME_UNKNOWN"]


async def test_networks_change_at_once(run: Run, upstream: FakeUpstream) -> None:
    """Whoever was served a moment ago is outside now, and inside again."""
    upstream.add_image(tag="v1")
    running = await run(configuration(upstream))
    path = f"/v2/{REPOSITORY}/manifests/v1?ns={HOST}"
    async with Wire(running.address) as wire:
        for networks, status in (("[]", 200), ('["192.0.2.0/24"]', 403), ('["127.0.0.0/8"]', 200)):
            await running.reload(configuration(upstream, more=f"networks = {networks}"))
            assert [(await wire.ask(path)).status for _ in range(2)] == [status] * 2


async def test_a_renewed_certificate(run: Run, upstream: FakeUpstream, tmp_path: Path) -> None:
    """SIGHUP looks at the certificates too, wherever the file says that they are now."""
    authority = Authority(tmp_path)
    first, second = authority.issue("first"), authority.issue("second")

    def text(name: str) -> str:
        return configuration(
            upstream, f'[server.tls]\ncertificate = "{tmp_path}/{name}.crt"\nkey = "{tmp_path}/{name}.key"'
        )

    running = await run(text("first"))
    assert running.urls[0].startswith("https://")
    running.file.write_text(text("second"))
    for pair in (first, second):
        async with asyncio.timeout(10), Wire(running.address, authority.trust()) as wire:
            assert int(wire.writer.get_extra_info("peercert")["serialNumber"], 16) == pair.serial
            os.kill(os.getpid(), signal.SIGHUP)
            while not running.events("config.reloaded"):
                assert (await wire.ask("/healthz")).status == 200


class TestLevel:
    @pytest.fixture
    def out(self) -> Iterator[io.BytesIO]:
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        yield io.BytesIO()
        structlog.reset_defaults()
        logs._line = None
        root.handlers[:] = handlers
        root.setLevel(level)

    def test_loggers_in_use_follow(self, out: io.BytesIO) -> None:
        """A new level holds for loggers that have been used already."""
        logs.configure(Logging(level="info", format="json"), out)
        log = structlog.get_logger()
        for level in ("info", "debug", "error"):
            logs.set_level(level)
            log.debug("small", at=level)
            log.warning("big", at=level)
        lines = [json.loads(line) for line in out.getvalue().splitlines()]
        assert [(line["event"], line["at"]) for line in lines] == [
            ("big", "info"),
            ("small", "debug"),
            ("big", "debug"),
        ]


HOSTS = st.sampled_from([SourceHost("a.example"), SourceHost("b.example")])
UPSTREAMS = st.builds(
    Upstream,
    urls=st.sampled_from([("https://a.example",), ("https://b.example",)]),
    access=st.sampled_from(["open", "local", "pass-through"]),
    account=st.sampled_from([None, Account("u", "p"), Account("v", "p")]),
    repositories=st.sampled_from([(), ("x/*",)]),
    readers=st.sampled_from([{}, {"alice": ("*",)}]),
    networks=st.sampled_from([(), ("10.0.0.0/8",)]),
    listen=st.sampled_from([(), ("127.0.0.1:1",)]),
    catalog=st.booleans(),
)


class TestChanges:
    TLS = Tls(Path("/a.crt"), Path("/a.key"))

    def config(self, **more: Any) -> Config:
        upstreams = {SourceHost("a.example"): Upstream(urls=("https://a.example",))}
        return Config(store=Store(path=Path("/store")), **{"upstreams": upstreams, **more})

    def test_nothing(self) -> None:
        """The same configuration changes nothing."""
        found = changes(self.config(), self.config())
        assert (found.config, found.now, found.later) == (self.config(), (), ())

    def test_tls_files_change_but_not_whether_there_is_tls(self) -> None:
        """Other files are used at once; to begin or end with TLS takes a restart."""
        other = Tls(Path("/b.crt"), Path("/b.key"))
        plain, secure = self.config(), self.config(server=Server(tls=self.TLS))
        found = changes(secure, self.config(server=Server(tls=other)))
        assert (found.config.server.tls, found.now, found.later) == (other, ("server.tls",), ())
        for one, two in ((plain, secure), (secure, plain)):
            found = changes(one, two)
            assert (found.config, found.now, found.later) == (one, (), ("server.tls",))

    def test_policy(self) -> None:
        """Most of it changes at once; what sources and streams were built with does not."""
        read = Policy(offline=True, slow=Seconds(1), patience=Seconds(1), sources=("upstream",))
        found = changes(self.config(), self.config(policy=read))
        assert found.config.policy == Policy(offline=True, slow=Seconds(1))
        assert found.now == ("policy.slow", "policy.offline")
        assert found.later == ("policy.patience", "policy.sources")

    def test_everything_else(self) -> None:
        """Every section is looked at."""
        read = self.config(
            upstreams={}, log=Logging(level="debug", format="text"), server=Server(listen=(":1",), drain=1)
        )
        found = changes(self.config(), read)
        assert found.now == ('upstream."a.example"', "server.drain", "log.level")
        assert found.later == ("server.listen", "log.format")

    OPEN = Upstream(urls=("https://a.example",))
    KEPT = Upstream(urls=("https://a.example",), access="local", networks=("10.0.0.0/8",))

    @pytest.mark.parametrize(
        ("one", "two", "keys", "live"),
        [
            (OPEN, {"urls": ("https://b.example",)}, ["urls"], True),
            (OPEN, {"networks": ("10.0.0.0/8",), "catalog": True}, ["networks", "catalog"], True),
            (OPEN, {"access": "local", "readers": {"a": ("*",)}}, ["access", "readers"], True),
            (OPEN, {"access": "pass-through"}, ["access"], True),
            (KEPT, {"readers": {"a": ("*",)}}, ["readers"], True),
            (KEPT, {"access": "open", "urls": ("https://b.example",)}, ["urls", "access"], False),
            (KEPT, {"access": "pass-through"}, ["access"], False),
            (OPEN, {"account": Account("u", "p"), "catalog": True}, ["account", "catalog"], False),
            (OPEN, {"repositories": ("x",)}, ["repositories"], False),
            (OPEN, {"listen": ("127.0.0.1:1",), "tag_fresh": 1}, ["tag_fresh", "listen"], False),
        ],
    )
    def test_an_upstream(self, one: Upstream, two: dict[str, Any], keys: list[str], live: bool) -> None:
        """A guard before an open upstream, and nearly all else, changes at once; where what is cached may be read by others than before,
        or a listener comes or goes, all of that upstream waits."""
        host = SourceHost("a.example")
        found = changes(self.config(upstreams={host: one}), self.config(upstreams={host: structs.replace(one, **two)}))
        named = tuple(f'upstream."a.example".{key}' for key in keys)
        assert (found.now, found.later) == ((named, ()) if live else ((), named))
        assert found.config.upstreams[host] == (structs.replace(one, **two) if live else one)

    @given(st.dictionaries(HOSTS, UPSTREAMS), st.lists(st.dictionaries(HOSTS, UPSTREAMS), max_size=4))
    def test_any_upstreams(self, first: dict[SourceHost, Upstream], reads: list[dict[SourceHost, Upstream]]) -> None:
        """However a configuration changes, nothing guarded is opened, no account comes or goes, no table is mixed of two; what is read again
        changes nothing more, and a key that differs from what runs is named."""
        running = self.config(upstreams=first)
        for upstreams in reads:
            read = self.config(upstreams=upstreams)
            found = changes(running, read)
            for host, one in found.config.upstreams.items():
                before, after = running.upstreams.get(host), upstreams.get(host)
                assert one in (before, after, after and structs.replace(after, listen=()))
                if before is not None:
                    assert not before.guarded or one.access == before.access
                    assert (one.account, one.repositories, one.listen) == (
                        before.account,
                        before.repositories,
                        before.listen,
                    )
            again = changes(found.config, read)
            assert (again.config, again.now, again.later) == (found.config, (), found.later)
            assert bool(found.later) == (found.config != read)
            running = found.config

    def test_upstreams_come_and_go(self) -> None:
        """A new one is served, without its listeners; one that is gone is not, unless it has a listener, which cannot go."""
        at = {"urls": ("https://b.example",), "listen": ("127.0.0.1:1",)}
        two, bare = {SourceHost("b.example"): Upstream(**at)}, Upstream(urls=("https://b.example",))
        found = changes(self.config(), self.config(upstreams=two))
        assert found.config.upstreams == {"b.example": bare}
        assert found.now == ('upstream."a.example"', 'upstream."b.example"')
        assert found.later == ('upstream."b.example".listen',)
        found = changes(self.config(upstreams=two), self.config())
        assert found.config.upstreams == self.config().upstreams | two
        assert found.later == ('upstream."b.example"',)


class TestStop:
    async def test_what_was_fetched_is_kept(self, bench: Benches, upstream: FakeUpstream) -> None:
        """A stop in the middle of a download commits each chunk that is complete: the next start does not fetch it again."""
        digest = upstream.add_blob(DATA)
        upstream.gate = gate = Gate()
        gate.release(5 * CHUNK)
        path = f"/v2/{REPOSITORY}/blobs/{digest}?ns={HOST}"
        async with bench(listen=True) as b, b.wire() as wire:
            wire.send(path)
            status, _ = await wire.head()
            assert status == 200
            assert await wire.reader.readexactly(5 * CHUNK) == DATA[: 5 * CHUNK]
            await b.instance.face.stop()
        upstream.gate = None
        sent = upstream.sent(digest)
        async with bench(listen=True) as b, b.wire() as wire:
            answer = await wire.ask(path, f"Range: bytes=0-{5 * CHUNK - 1}")
        assert (answer.status, answer.body) == (206, DATA[: 5 * CHUNK])
        assert upstream.sent(digest) == sent
