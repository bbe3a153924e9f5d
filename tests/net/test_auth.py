"""Authorization: what goes to whom, how often, and what a refusal means."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from registry_proxy.config import Account
from registry_proxy.errors import AccountRefused, BlobUnknown, Denied, UpstreamBroken, UpstreamBusy, UpstreamFailed
from registry_proxy.net.upstream import Ask, UpstreamClient
from registry_proxy.oci.names import Repository
from tests.fakes.clients import client_for
from tests.fakes.upstream import REPOSITORY, FakeUpstream

ROBOT = Account("robot", "s3cret")


async def tags(client: UpstreamClient, repository: str = REPOSITORY) -> int:
    ask = Ask(f"/v2/{repository}/tags/list", BlobUnknown, repository=Repository(repository))
    async with client.ask(ask) as response:
        return response.status


def registry(**switches: Any) -> FakeUpstream:
    upstream = FakeUpstream(**switches)
    upstream.add_image(tag="v1")
    upstream.add_image(tag="v1", repository="other/app")
    return upstream


async def test_nothing_is_sent_unasked() -> None:
    """A registry that does not challenge never sees the account."""
    async with registry() as upstream, client_for(upstream, account=ROBOT) as client:
        await tags(client)
        assert "Authorization" not in upstream.requests[0].headers


async def test_anonymous_token() -> None:
    """Without an account a token is asked for anonymously, for a pull from this repository."""
    async with registry(auth="bearer") as upstream, client_for(upstream) as client:
        assert await tags(client) == 200
        asked = upstream.asked("token")[0]
        assert asked.query == {"service": "fake", "scope": f"repository:{REPOSITORY}:pull"}
        assert "Authorization" not in asked.headers


async def test_token_is_kept_and_got_ahead() -> None:
    """A token serves later requests, and a second repository's token is got without a second challenge."""
    async with registry(auth="bearer") as upstream, client_for(upstream) as client:
        for _ in range(3):
            await tags(client)
        await tags(client, "other/app")
        assert len(upstream.asked("token")) == 2
        assert len(upstream.asked("tags")) == 1 + 3 + 1


async def test_one_token_for_all_who_wait() -> None:
    """Concurrent requests that need the same token cost one token request, however few slots there are."""
    async with registry(auth="bearer") as upstream, client_for(upstream) as client:
        await asyncio.gather(*(tags(client) for _ in range(20)))
        upstream.revoke_tokens()
        await asyncio.gather(*(tags(client, name) for name in (REPOSITORY, "other/app") for _ in range(10)))
        assert len(upstream.asked("token")) <= 4


async def test_revoked_token_is_replaced() -> None:
    """A token that is refused before its time is replaced once."""
    async with registry(auth="bearer") as upstream, client_for(upstream) as client:
        await tags(client)
        upstream.revoke_tokens()
        assert await tags(client) == 200
        assert len(upstream.asked("token")) == 2


@pytest.mark.parametrize(
    ("expires_in", "later", "fetched"), [(300, 280.0, 1), (300, 295.0, 2), (None, 45.0, 1), (None, 55.0, 2)]
)
async def test_token_expires(expires_in: int | None, later: float, fetched: int) -> None:
    """A token is used until shortly before its end; without a word about it, for a minute."""
    async with registry(auth="bearer", expires_in=expires_in) as upstream, client_for(upstream) as client:
        now = 1000.0
        client._auth._clock = lambda: now
        await tags(client)
        now += later
        await tags(client)
        assert len(upstream.asked("token")) == fetched


async def test_account_gets_the_token() -> None:
    """The account's name and password go to the token server, and only there."""
    async with registry(auth="bearer", public_pull=False) as upstream, client_for(upstream, account=ROBOT) as client:
        assert await tags(client) == 200
        assert upstream.asked("token")[0].headers["Authorization"] == upstream.basic
        assert all(each.headers.get("Authorization") != upstream.basic for each in upstream.asked(server="registry"))


async def test_identity_token(tmp_path: Path) -> None:
    """An identity token is traded for an access token by POST."""
    async with registry(auth="bearer", public_pull=False, identity_token="refresh") as upstream:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"auths": {upstream.host: {"identitytoken": "refresh"}}}))
        async with client_for(upstream, account=Account(docker_config=path)) as client:
            assert await tags(client) == 200
        assert [each.method for each in upstream.asked("token")] == ["POST"]


async def test_basic() -> None:
    """A registry that wants Basic gets it, unasked from the second request on."""
    async with registry(auth="basic") as upstream, client_for(upstream, account=ROBOT) as client:
        await tags(client)
        await tags(client)
        assert [each.headers.get("Authorization") for each in upstream.requests] == [
            None,
            upstream.basic,
            upstream.basic,
        ]


async def test_account_is_for_its_repositories_only() -> None:
    """With repository patterns the account is used for those that match; the others are asked for anonymously."""
    async with (
        registry(auth="bearer", public_pull=False) as upstream,
        client_for(upstream, account=ROBOT, repositories=("team/*",)) as client,
    ):
        assert await tags(client) == 200
        with pytest.raises(Denied):
            await tags(client, "other/app")
        assert client.anonymous(Repository("other/app"))
        assert not client.anonymous(Repository(REPOSITORY))


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_refused_account_is_trouble(auth: str) -> None:
    """A wrong password of ours is trouble, not an answer about the client."""
    async with (
        registry(auth=auth, public_pull=False) as upstream,
        client_for(upstream, account=Account("robot", "wrong")) as client,
    ):
        with pytest.raises(AccountRefused):
            await tags(client)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_refused_anonymous_client_is_denied(auth: str) -> None:
    """Where anonymous pulls are not allowed, that is the answer."""
    async with registry(auth=auth, public_pull=False) as upstream, client_for(upstream) as client:
        with pytest.raises(Denied):
            await tags(client)


async def test_changed_password_file_is_read_again(tmp_path: Path) -> None:
    """A rotated password is found when the old one is refused."""
    path = tmp_path / "password"
    path.write_text("s3cret")
    async with (
        registry(auth="basic") as upstream,
        client_for(upstream, account=Account("robot", password_file=path)) as client,
    ):
        await tags(client)
        upstream.password = "rotated"
        path.write_text("rotated")
        assert await tags(client) == 200


@pytest.mark.parametrize("realm", ["http://evil.test/token", "http://127.0.0.9:1/token", "ftp://x", "", "http://[::"])
async def test_foreign_realm_sees_nothing(realm: str) -> None:
    """A token realm on another host or domain is not asked, let alone told a password."""
    async with registry(auth="bearer") as upstream, client_for(upstream, account=ROBOT) as client:
        upstream.realm = realm or " "
        with pytest.raises(UpstreamBroken):
            await tags(client)
        assert len(upstream.requests) == 1


async def test_listed_realm_is_asked() -> None:
    """A realm on another host is asked if the configuration lists it."""
    async with registry(auth="bearer") as upstream, client_for(upstream, realms=("localhost",)) as client:
        upstream.realm = upstream.url_of("token").replace("127.0.0.1", "localhost") + "/token?extra=1"
        assert await tags(client) == 200
        assert upstream.asked("token")[0].query["extra"] == "1"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'{"token":5}', b"{}", b'{"token":"a\\r\\nX: y"}', b'{"token":"' + b"x" * 65536 + b'"}'],
)
async def test_nonsense_tokens(body: bytes) -> None:
    """A token answer that is none, or is endless, makes the upstream broken."""
    async with registry(auth="bearer") as upstream, client_for(upstream) as client:
        upstream.fail("token", 200, body=body)
        with pytest.raises(UpstreamBroken):
            await tags(client)


async def test_token_server_redirects_are_not_followed() -> None:
    """A token request is never redirected: the password would go along."""
    async with registry(auth="bearer") as upstream, client_for(upstream, account=ROBOT) as client:
        upstream.fail("token", 307, headers={"Location": f"{upstream.url}/v2/"})
        with pytest.raises(UpstreamBroken):
            await tags(client)
        assert not upstream.asked("ping")


@pytest.mark.parametrize(("status", "error"), [(503, UpstreamFailed), (429, UpstreamBusy), (404, UpstreamBroken)])
async def test_trouble_of_the_token_server(status: int, error: type[Exception]) -> None:
    """Trouble of the token server is trouble of the upstream, and its 404 says nothing about content."""
    async with registry(auth="bearer") as upstream, client_for(upstream) as client:
        upstream.fail("token", status, headers={"Retry-After": "100"})
        with pytest.raises(error):
            await tags(client)


async def test_malformed_challenge() -> None:
    """A challenge that cannot be read makes the upstream broken."""
    async with registry() as upstream, client_for(upstream) as client:
        upstream.fail("tags", 401, headers={"WWW-Authenticate": '"'})
        with pytest.raises(UpstreamBroken):
            await tags(client)
