"""TLS on the listeners: renewal, mutual TLS, bodies, Unix sockets beside it."""

import asyncio
import os
import re
import socket
import ssl
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from registry_proxy.access.local import Fence
from registry_proxy.config import Tls
from registry_proxy.errors import ConfigInvalid
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.networks import UNIX, Networks
from registry_proxy.web.body import SENDFILE_FROM
from registry_proxy.web.server import Face
from registry_proxy.web.tls import Certificates
from tests.fakes.certificates import Authority, Pair
from tests.fakes.wire import Wire
from tests.web.conftest import StartFace
from tests.web.memory import FileChunk, MemoryHeart, memory_blob

CUT_OFF = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)
"""What a client sees that fails in the handshake: in TLS 1.3 it may believe itself connected first."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("server")


@pytest.fixture
def settings(pair: Pair) -> Tls:
    return Tls(pair.certificate, pair.key)


@pytest.fixture
async def secure(start: StartFace, settings: Tls) -> Face:
    return await start(tls=settings)


@pytest.fixture
async def wire(secure: Face, authority: Authority) -> AsyncIterator[Wire]:
    async with Wire(secure.addresses[0], authority.trust()) as wire:
        yield wire


def serial(wire: Wire) -> int:
    """The serial number of the certificate that the server showed."""
    return int(wire.writer.get_extra_info("peercert")["serialNumber"], 16)


async def shown(face: Face, trust: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new connection is shown."""
    async with Wire(face.addresses[0], trust) as wire:
        assert (await wire.ask("/v2/")).status == 200
        return serial(wire)


async def test_requests_over_tls(wire: Wire, secure: Face, pair: Pair) -> None:
    """An https listener answers, and says so in its URL."""
    assert (await wire.ask("/v2/")).status == 200
    assert serial(wire) == pair.serial
    assert secure.urls == [f"https://127.0.0.1:{secure.addresses[0][1]}"]


async def test_large_pieces_arrive_over_tls(wire: Wire, heart: MemoryHeart, tmp_path: Path) -> None:
    """Pieces of files that would go by sendfile on a plain connection are encrypted like any other, in ranges too."""
    content = os.urandom(3 * SENDFILE_FROM)
    blob = memory_blob(content, chunk=2 * SENDFILE_FROM)
    for index, chunk in enumerate(blob.chunks):
        (tmp_path / str(index)).write_bytes(chunk.data)
        blob.chunks[index] = FileChunk(chunk.length, (tmp_path / str(index)).open("rb"))
    heart.blobs["registry.test", "a", str(blob.digest)] = blob
    path = f"/v2/a/blobs/{blob.digest}?ns=registry.test"
    assert (await wire.ask(path)).body == content
    part = await wire.ask(path, f"Range: bytes=5-{2 * SENDFILE_FROM + 7}")
    assert (part.status, part.body) == (206, content[5 : 2 * SENDFILE_FROM + 8])
    for chunk in blob.chunks:
        chunk.file.close()


async def test_plain_http_on_a_tls_port(secure: Face) -> None:
    """Who speaks plain http to it is cut off, and others are not disturbed."""
    async with Wire(secure.addresses[0]) as wire:
        wire.send("/v2/")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await wire.head()


async def test_a_handshake_must_come(start: StartFace, settings: Tls) -> None:
    """A connection without a handshake is closed after the header timeout."""
    face = await start(tls=settings, header_timeout=0.1)
    async with Wire(face.addresses[0]) as wire, asyncio.timeout(5):
        assert await wire.closed()


async def test_renewal_drops_nobody(start: StartFace, authority: Authority, pair: Pair, settings: Tls) -> None:
    """New handshakes see the renewed certificate; a connection that is open goes on with the old one."""
    face = await start(tls=settings)
    async with Wire(face.addresses[0], authority.trust()) as old:
        assert (await old.ask("/v2/")).status == 200
        renewed = authority.issue("server")
        await face.apply(face.settings)
        assert await shown(face, authority.trust()) == renewed.serial
        assert (await old.ask("/v2/")).status == 200
        assert serial(old) == pair.serial


async def test_renewal_is_noticed(authority: Authority, settings: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that change are loaded without anybody saying so."""
    certificates = Certificates(settings)
    used = asyncio.Event()
    monkeypatch.setattr(certificates, "_use", lambda _: used.set())
    watch = asyncio.create_task(certificates.watch(0.01))
    authority.issue("server")
    try:
        async with asyncio.timeout(10):
            await used.wait()
    finally:
        watch.cancel()


async def test_a_switched_link_is_a_change(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    """Tools that renew by switching a link are understood."""
    link_crt, link_key = tmp_path / "live.crt", tmp_path / "live.key"
    link_crt.symlink_to(pair.certificate)
    link_key.symlink_to(pair.key)
    certificates = Certificates(Tls(link_crt, link_key))
    before, other = certificates.context.newest, authority.issue("other")
    for link, target in ((link_crt, other.certificate), (link_key, other.key)):
        link.unlink()
        link.symlink_to(target)
    await certificates.renew(Tls(link_crt, link_key))
    assert certificates.context.newest is not before


async def test_a_broken_renewal_is_refused(start: StartFace, authority: Authority, pair: Pair, settings: Tls) -> None:
    """A key that does not fit is one line in the log, not one per look; the old pair goes on until a right one is there."""
    face = await start(tls=settings)
    old_key = pair.key.read_bytes()
    certificate = authority.issue("server").certificate.read_bytes()
    new_key = pair.key.read_bytes()
    pair.key.write_bytes(old_key)
    with capture_logs() as logs:
        await face.apply(face.settings)
        await face.apply(face.settings)
    refused = [entry["error"] for entry in logs if entry["event"] == "tls.refused"]
    assert refused == [f"server.tls.key: {pair.key}: does not belong to the certificate"]
    assert await shown(face, authority.trust()) == pair.serial
    pair.key.write_bytes(new_key)
    await face.apply(face.settings)
    assert await shown(face, authority.trust()) != pair.serial
    assert pair.certificate.read_bytes() == certificate


class TestMutual:
    @pytest.fixture
    def clients(self, tmp_path: Path) -> Authority:
        return Authority(tmp_path, "clients")

    async def test_only_known_clients(
        self, start: StartFace, authority: Authority, clients: Authority, settings: Tls
    ) -> None:
        """With a client CA, a certificate that it has signed is needed; others are cut off in the handshake."""
        face = await start(tls=Tls(settings.certificate, settings.key, clients.ca))
        assert await shown(face, authority.trust(clients.issue("alice")))
        for stranger in (authority.trust(), authority.trust(authority.issue("mallory"))):
            with pytest.raises(CUT_OFF):
                await shown(face, stranger)

    async def test_a_ca_that_is_replaced_counts_no_more(
        self, start: StartFace, authority: Authority, clients: Authority, settings: Tls, tmp_path: Path
    ) -> None:
        """After a renewal of the client CA, clients of the old one are strangers, resumed sessions included."""
        face = await start(tls=Tls(settings.certificate, settings.key, clients.ca))
        alice = authority.trust(clients.issue("alice"))
        assert await shown(face, alice)
        Authority(tmp_path, "clients")
        await face.apply(face.settings)
        with pytest.raises(CUT_OFF):
            await shown(face, alice)


async def test_the_oldest_version(start: StartFace, authority: Authority, settings: Tls) -> None:
    """A client that knows nothing newer than the minimum's predecessor gets no handshake."""
    old = authority.trust()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert await shown(await start(tls=settings), old)
    strict = await start(tls=Tls(settings.certificate, settings.key, minimum="1.3"))
    with pytest.raises(CUT_OFF):
        await shown(strict, old)


class TestRefusedAtTheStart:
    def refused(self, settings: Tls, words: str) -> None:
        with pytest.raises(ConfigInvalid, match=words):
            Certificates(settings)

    def test_files_that_are_wrong(self, authority: Authority, pair: Pair, tmp_path: Path) -> None:
        """Each is one line that names the key and the file."""
        rubbish, gone = tmp_path / "rubbish", tmp_path / "gone"
        rubbish.write_text("hello")
        self.refused(Tls(gone, pair.key), r"server\.tls\.certificate: .*gone: No such file")
        self.refused(Tls(rubbish, pair.key), r"server\.tls\.certificate: .*rubbish: no certificate")
        self.refused(Tls(pair.certificate, rubbish), r"server\.tls\.key: .*rubbish: not a key")
        self.refused(Tls(pair.certificate, gone), r"server\.tls\.key: .*gone: No such file")
        self.refused(Tls(pair.certificate, authority.issue("b").key), r"server\.tls\.key: .* does not belong")
        self.refused(Tls(pair.certificate, pair.key, rubbish), r"server\.tls\.client_ca: .*rubbish: no certificates")

    def test_an_encrypted_key(self, authority: Authority) -> None:
        """Nobody is asked for a password on a terminal that is not there."""
        pair = authority.issue("secret", b"password")
        self.refused(Tls(pair.certificate, pair.key), r"server\.tls\.key: .* encrypted")

    async def test_nothing_listens(self, start: StartFace, pair: Pair, tmp_path: Path) -> None:
        """A face whose certificates are wrong does not start."""
        with pytest.raises(ConfigInvalid):
            await start(tls=Tls(pair.certificate, tmp_path / "gone"))


class TestUnixSocket:
    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        return str(tmp_path / "http.sock")

    async def test_it_answers(self, start: StartFace, path: str, settings: Tls) -> None:
        """A Unix socket speaks plain http beside a TLS listener, for its owner and group only, and goes with the face."""
        face = await start(listen=(f"unix:{path}", "127.0.0.1:0"), tls=settings)
        assert face.urls[0] == f"unix:{path}"
        assert len(face.addresses) == 1
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o660
        async with Wire(path) as wire:
            assert (await wire.ask("/v2/")).status == 200
        await face.stop()
        assert not Path(path).exists()

    @pytest.mark.parametrize("name", ["192.0.2.1", "\x00192.0.2.1", "::1"])
    async def test_a_client_is_nowhere_else(
        self,
        start: StartFace,
        heart: MemoryHeart,
        path: str,
        tmp_path: Path,
        name: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Whatever name a client gives to its own end, it is on a Unix socket: it is in no network, and takes nobody's turn."""
        blob = memory_blob(b"layer")
        heart.blobs["registry.test", "a", str(blob.digest)] = blob
        monkeypatch.chdir(tmp_path)
        for networks, status in ((["192.0.2.0/24", "::1", "127.0.0.0/8"], 403), ([UNIX], 200)):
            guard = {SourceHost("registry.test"): Fence(Networks(networks), None)}
            at = f"{path}-{status}"
            await start(listen=(f"unix:{at}",), guard=guard, requests_per_client=1, queue=0)
            with socket.socket(socket.AF_UNIX) as own:
                own.bind(name)
                own.connect(at)
                reader, writer = await asyncio.open_unix_connection(sock=own)
                for _ in range(5):
                    writer.write(f"GET /v2/a/blobs/{blob.digest}?ns=registry.test HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert head.startswith(f"HTTP/1.1 {status} ".encode())
                    await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", head)[0]))
                writer.close()
            if "\x00" not in name:
                Path(name).unlink()

    async def test_a_stale_one_is_replaced(self, start: StartFace, path: str) -> None:
        """What a killed process has left behind is no obstacle."""
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(path)
        await start(listen=(f"unix:{path}",))
        async with Wire(path) as wire:
            assert (await wire.ask("/healthz")).status == 200

    async def test_one_in_use_is_not(self, start: StartFace, path: str) -> None:
        """A socket that somebody answers on stays his."""
        await start(listen=(f"unix:{path}",))
        with pytest.raises(
            ConfigInvalid, match=r"server\.listen: cannot listen on unix:.*: another process listens there"
        ):
            await start(listen=(f"unix:{path}",))
        async with Wire(path) as wire:
            assert (await wire.ask("/healthz")).status == 200

    async def test_a_file_is_not_removed(self, start: StartFace, path: str) -> None:
        """A file that is no socket is never touched."""
        Path(path).write_text("precious")
        with pytest.raises(ConfigInvalid, match="no socket is in the way"):
            await start(listen=(f"unix:{path}",))
        assert Path(path).read_text() == "precious"
