import ssl
import subprocess
from pathlib import Path

import pytest

from registry_proxy.config import Timeouts, Upstream
from registry_proxy.errors import UpstreamBroken, UpstreamDown, UpstreamUnreachable
from registry_proxy.net.client import Client
from registry_proxy.net.trust import authorities
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.origins import Origin
from tests.fakes.clients import settings_for
from tests.fakes.faults import Cut, Gate
from tests.fakes.upstream import FakeUpstream

PUBLIC = "http://registry.invalid"


async def fetch(client: Client, url: str, *, by: str | None = None, patterns: tuple[str, ...] = ()) -> bytes:
    async with client.send("GET", url, by=Origin.of(by or url), patterns=patterns) as response:
        return await response.read(1 << 20)


async def test_identity_is_asked_for_and_nothing_else_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request asks for plain bytes, names us, and ignores the proxies of the environment."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with FakeUpstream() as upstream, Client(settings_for(upstream)) as client:
        await fetch(client, f"{upstream.url}/v2/")
        headers = upstream.requests[0].headers
        assert headers["Accept-Encoding"] == "identity"
        assert headers["User-Agent"].startswith("registry-proxy/")
        assert "Cookie" not in headers


async def test_no_connection() -> None:
    """A server that takes no connection is down."""
    async with FakeUpstream() as upstream:
        settings = settings_for(upstream)
    async with Client(settings) as client:
        with pytest.raises(UpstreamDown):
            await fetch(client, f"{settings.urls[0]}/v2/")


async def test_unknown_host() -> None:
    """A name that does not resolve is a server that is down."""
    async with Client(Upstream((PUBLIC,))) as client:
        with pytest.raises(UpstreamDown):
            await fetch(client, f"{PUBLIC}/v2/")


async def test_header_timeout() -> None:
    """A server that says nothing is given up on after the header timeout."""
    async with FakeUpstream() as upstream:
        upstream.hold("ping")
        timeouts = Timeouts(connect=0.1, header=0.1)
        async with Client(settings_for(upstream, timeouts=timeouts)) as client:
            with pytest.raises(UpstreamUnreachable):
                await fetch(client, f"{upstream.url}/v2/")


async def test_idle_timeout() -> None:
    """A body that stops coming is given up on after the idle timeout, and what came before is read."""
    async with FakeUpstream(gate=Gate(5)) as upstream:
        digest = upstream.add_blob(b"0123456789")
        async with Client(settings_for(upstream, timeouts=Timeouts(idle=0.1))) as client:
            url = f"{upstream.url}/v2/team/app/blobs/{digest}"
            async with client.send("GET", url, by=Origin.of(url)) as response:
                pieces = response.pieces()
                assert await anext(pieces) == b"01234"
                with pytest.raises(UpstreamUnreachable):
                    await anext(pieces)


async def test_cut_body_is_unreachable() -> None:
    """A connection that closes before the announced length is trouble."""
    async with FakeUpstream() as upstream, Client(settings_for(upstream)) as client:
        digest = upstream.add_blob(b"0123456789")
        upstream.spoil(Cut(4))
        with pytest.raises(UpstreamUnreachable):
            await fetch(client, f"{upstream.url}/v2/team/app/blobs/{digest}")


async def test_body_limit() -> None:
    """A body beyond its limit is refused, not read on."""
    async with FakeUpstream() as upstream, Client(settings_for(upstream)) as client:
        digest = upstream.add_blob(bytes(1 << 20) + b"x")
        with pytest.raises(UpstreamBroken):
            await fetch(client, f"{upstream.url}/v2/team/app/blobs/{digest}")


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://2130706433:{port}/"]
)
async def test_public_upstream_cannot_send_us_inside(target: str) -> None:
    """What a public upstream names is not met at a private address, however the address is written or resolved."""
    async with FakeUpstream() as inside, Client(Upstream((PUBLIC,))) as client:
        with pytest.raises(UpstreamBroken):
            await fetch(client, target.format(port=inside.url.rpartition(":")[2]), by=PUBLIC)
        assert not inside.requests


async def test_metadata_addresses_are_never_met() -> None:
    """Not even a private upstream or a listed host leads to a link-local address."""
    async with FakeUpstream() as upstream, Client(settings_for(upstream)) as client:
        await fetch(client, f"{upstream.url}/v2/")
        with pytest.raises(UpstreamBroken):
            await fetch(client, "http://169.254.169.254/latest", by=upstream.url, patterns=("*",))


async def test_private_upstream_may_send_us_to_private_storage() -> None:
    """Once an upstream was met at a private address, what it names may be at one too."""
    async with FakeUpstream() as upstream, Client(settings_for(upstream)) as client:
        storage = upstream.url_of("storage").replace("127.0.0.1", "localhost")
        with pytest.raises(UpstreamBroken):
            await fetch(client, storage, by=upstream.url)
        await fetch(client, f"{upstream.url}/v2/")
        await fetch(client, storage, by=upstream.url)


async def test_listed_host_may_be_private() -> None:
    """A host that the configuration lists may be at a private address."""
    async with FakeUpstream() as inside, Client(Upstream((PUBLIC,))) as client:
        url = inside.url_of("storage").replace("127.0.0.1", "localhost")
        await fetch(client, url, by=PUBLIC, patterns=("local*",))


async def test_forward_proxy() -> None:
    """With a forward proxy, requests go there with the whole URL, and only there."""
    async with FakeUpstream() as forward, Client(Upstream((PUBLIC,), forward_proxy=forward.url)) as client:
        assert await fetch(client, f"{PUBLIC}/v2/") == b"{}"
        assert forward.requests[0].headers["Host"] == "registry.invalid"


async def test_private_ca(tmp_path: Path) -> None:
    """A certificate of a private authority is believed if its file is configured, and not otherwise."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=fake", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run(["openssl", *kind, *subject, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with FakeUpstream(tls=tls) as upstream:
        settings = settings_for(upstream, ca=certificate)
        async with Client(settings, authorities(SourceHost("a.example"), settings)) as client:
            assert await fetch(client, f"{upstream.url}/v2/") == b"{}"
        async with Client(settings_for(upstream)) as client:
            with pytest.raises(UpstreamDown):
                await fetch(client, f"{upstream.url}/v2/")
