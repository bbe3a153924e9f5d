"""Nobody makes the proxy talk to whom it should not: not a client by names, not an upstream by URLs, not DNS by its answers."""

import socket
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from registry_proxy.config import Account, Upstream
from registry_proxy.errors import UpstreamBroken
from registry_proxy.net.client import Client, _Trust
from registry_proxy.plan.origins import Origin
from tests.fakes.clients import client_for, settings_for
from tests.fakes.upstream import FakeUpstream
from tests.net.test_auth import registry, tags

PUBLIC = "http://registry.invalid"
METADATA = [
    "169.254.169.254",
    "fe80::1",
    "fd00:ec2::254",
    "100.100.100.200",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
]
Names = Callable[[Mapping[str, list[str]]], list[str]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Makes names resolve to addresses, each time to the next one, the last one for ever; the list has the names asked for."""
    asked: list[str] = []
    answers: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *rest: Any, **more: Any) -> list[Any]:
        if host not in answers:
            return real(host, port, *rest, **more)
        asked.append(host)
        address = answers[host].pop(0) if len(answers[host]) > 1 else answers[host][0]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        where = (address, port, 0, 0) if ":" in address else (address, port)
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def resolve(said: Mapping[str, list[str]]) -> list[str]:
        answers.update(said)
        return asked

    return resolve


async def fetch(client: Client, url: str, *, by: str = PUBLIC, patterns: tuple[str, ...] = ()) -> bytes:
    async with client.send("GET", url, by=Origin.of(by), patterns=patterns) as response:
        return await response.read(1 << 20)


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("patterns", [(), ("*",)])
async def test_a_name_that_leads_to_metadata(names: Names, address: str, patterns: tuple[str, ...]) -> None:
    """A host that an upstream names is judged by what it resolves to; link-local and metadata addresses are met for nobody."""
    names({"storage.invalid": [address]})
    async with Client(Upstream((PUBLIC,))) as client:
        with pytest.raises(UpstreamBroken, match="forbidden"):
            await fetch(client, "http://storage.invalid/x", patterns=patterns)


@pytest.mark.parametrize("address", METADATA)
async def test_an_upstream_that_resolves_to_metadata(names: Names, address: str) -> None:
    """Not even an upstream's own host may be there, whoever answers for its name."""
    names({"registry.invalid": [address]})
    async with Client(Upstream((PUBLIC,))) as client:
        with pytest.raises(UpstreamBroken, match="forbidden"):
            await fetch(client, f"{PUBLIC}/v2/")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd12::1"])
async def test_a_name_that_leads_inside(names: Names, address: str) -> None:
    """A public upstream does not lead into private networks, by no name."""
    names({"storage.invalid": [address]})
    async with Client(Upstream((PUBLIC,))) as client:
        with pytest.raises(UpstreamBroken, match="private"):
            await fetch(client, "http://storage.invalid/x")


async def test_what_was_judged_is_what_is_dialled(names: Names) -> None:
    """A name is resolved once for a connection: an answer of DNS that changes after the check changes nothing."""
    async with FakeUpstream() as inside, Client(Upstream((PUBLIC,))) as client:
        asked = names({"storage.invalid": ["127.0.0.1", "169.254.169.254"]})
        url = inside.url_of("storage").replace("127.0.0.1", "storage.invalid")
        await fetch(client, url, patterns=("storage.invalid",))
        assert asked == ["storage.invalid"]
        assert inside.requests[0].server == "storage"


def test_an_upstream_does_not_become_private_by_an_answer_of_dns() -> None:
    """An upstream that was met at a public address stays a public one, also when its name leads inside later."""
    client, own = Client(Upstream((PUBLIC,))), _Trust("registry.invalid")
    for addresses, private in (
        (["10.0.0.1"], True),
        (["10.0.0.1", "8.8.8.8"], False),
        (["8.8.8.8", "10.0.0.1"], False),
    ):
        client._met.clear()
        for address in addresses:
            info = (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 80))
            client._make_socket(own, True, info).close()
        trust = client._trust(Origin.of("http://storage.invalid"), Origin.of(PUBLIC), ())
        assert trust.private is private


async def test_a_realm_that_leads_inside(names: Names) -> None:
    """A token realm on the upstream's own domain that resolves to a metadata address is not asked."""
    async with registry(auth="bearer") as upstream:
        names({"registry.example.test": ["127.0.0.1"], "auth.example.test": ["169.254.169.254"]})
        upstream.realm = "http://auth.example.test/token"
        url = upstream.url.replace("127.0.0.1", "registry.example.test")
        async with client_for(url, account=Account("robot", "s3cret")) as client:
            with pytest.raises(UpstreamBroken, match="forbidden"):
                await tags(client)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_token_request_is_redirected(status: int) -> None:
    """Whatever a token server redirects to is not asked: neither a password nor a scope goes there."""
    async with FakeUpstream() as other, registry(auth="bearer") as upstream:
        async with client_for(upstream, account=Account("robot", "s3cret")) as client:
            upstream.fail("token", status, headers={"Location": f"{other.url}/token"})
            with pytest.raises(UpstreamBroken):
                await tags(client)
        assert not other.requests


async def test_listed_hosts_only() -> None:
    """Where redirect_hosts is said, a redirect to another host is not followed."""
    async with FakeUpstream(redirect=True) as upstream:
        settings = settings_for(upstream, redirect_hosts=("*.storage.example",))
        assert settings.redirect_hosts
        async with client_for(upstream, redirect_hosts=("*.storage.example",)) as client:
            upstream.fail("tags", 302, headers={"Location": "http://elsewhere.invalid/x"})
            with pytest.raises(UpstreamBroken, match="redirect_hosts"):
                await tags(client)


async def test_what_clients_show_goes_to_no_public_address_in_clear(names: Names) -> None:
    """A pass-through upstream at a public address is shown no Authorization without https; one at a private address is."""
    names({"registry.invalid": ["192.0.33.8"]})
    shown = {"Authorization": "Bearer secret"}
    async with Client(Upstream((PUBLIC,), access="pass-through")) as client:
        with pytest.raises(UpstreamBroken, match="without https"):
            async with client.send("GET", f"{PUBLIC}/v2/", shown, by=Origin.of(PUBLIC)):
                pass
    async with (
        FakeUpstream() as upstream,
        Client(settings_for(upstream, access="pass-through")) as client,
        client.send("GET", f"{upstream.url}/v2/", shown, by=Origin.of(upstream.url)) as response,
    ):
        assert response.status == 200
