"""Mirrors, retries, redirects and slots of the exchanges with an upstream."""

import asyncio
from collections.abc import Mapping

import pytest

from registry_proxy.config import Timeouts
from registry_proxy.errors import (
    BlobUnknown,
    Denied,
    RegistryProxyError,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamDown,
    UpstreamFailed,
    UpstreamUnreachable,
)
from registry_proxy.net.mirrors import Mirrors
from registry_proxy.net.upstream import Ask, UpstreamClient
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository
from registry_proxy.plan.ratelimit import RateLimit
from registry_proxy.sources.base import Priority, Urgency
from registry_proxy.telemetry.metrics import Metrics
from tests.fakes.clients import client_for
from tests.fakes.faults import Gate
from tests.fakes.upstream import REPOSITORY, FakeUpstream

DATA = b"0123456789" * 100


def blob(digest: Digest, method: str = "GET", headers: Mapping[str, str] | None = None) -> Ask:
    path = f"/v2/{REPOSITORY}/blobs/{digest}"
    urgency = Urgency(Priority.FOREGROUND)
    return Ask(path, BlobUnknown, method, Repository(REPOSITORY), headers=headers or {}, blob=True, urgency=urgency)


async def read(client: UpstreamClient, digest: Digest) -> bytes:
    async with client.ask(blob(digest)) as response:
        return await response.read(1 << 20)


# --- retries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    """Two failures of the server are bridged by two more tries."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        upstream.fail("blob", status, times=2)
        assert await read(client, digest) == DATA
        assert len(upstream.asked("blob")) == 3


async def test_third_failure_is_raised() -> None:
    """After three tries the failure is raised, and each is counted."""
    metrics = Metrics()
    async with FakeUpstream() as upstream, client_for(upstream, metrics=metrics) as client:
        digest = upstream.add_blob(DATA)
        upstream.fail("blob", 503)
        with pytest.raises(UpstreamFailed):
            await read(client, digest)
        assert len(upstream.asked("blob")) == 3
    line = b'registry_proxy_upstream_errors_total{kind="UpstreamFailed",upstream="fake.example"} 3.0'
    assert line in metrics.exposition()


async def test_dropped_connection_is_tried_again() -> None:
    """A connection closed instead of an answer costs another try."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        upstream.drop("blob", times=1)
        assert await read(client, digest) == DATA


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, BlobUnknown), (403, Denied), (401, Denied), (418, UpstreamBroken), (204, UpstreamBroken)],
)
async def test_answers_are_not_tried_again(status: int, error: type[RegistryProxyError]) -> None:
    """What will not pass is raised at once."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        upstream.fail("blob", status)
        with pytest.raises(error):
            await read(client, digest)
        assert len(upstream.asked("blob")) == 1


async def test_short_rate_limit_is_waited_out() -> None:
    """429 with a Retry-After of seconds is tried again."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        upstream.fail("blob", 429, times=1, headers={"Retry-After": "2"})
        assert await read(client, digest) == DATA


@pytest.mark.parametrize(("headers", "seconds"), [({"Retry-After": "3600"}, 3600.0)])
async def test_long_rate_limit_is_raised(headers: dict[str, str], seconds: float) -> None:
    """429 with a long Retry-After is raised with that time, and nothing is hammered."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        upstream.fail("blob", 429, headers=headers)
        with pytest.raises(UpstreamBusy) as caught:
            await read(client, digest)
        assert caught.value.retry_after == seconds
        assert len(upstream.asked("blob")) == 1


async def test_rate_limit_headers_are_kept() -> None:
    """What Docker Hub says is left is kept for showing."""
    async with FakeUpstream(rate_limit=("100;w=21600", "42;w=21600")) as upstream, client_for(upstream) as client:
        upstream.add_image(tag="v1")
        async with client.ask(Ask(f"/v2/{REPOSITORY}/manifests/v1", BlobUnknown)):
            pass
        assert client.rate_limit == RateLimit(100, 42, 21600)


# --- mirrors -----------------------------------------------------------------------------------------------------------


async def test_next_mirror_answers() -> None:
    """Where the first mirror has trouble, or has not got it, the second answers."""
    async with FakeUpstream() as first, FakeUpstream() as second, client_for(first, second) as client:
        digest = second.add_blob(DATA)
        assert await read(client, digest) == DATA
        first.fail("blob", 500)
        assert await read(client, digest) == DATA


async def test_dead_mirror_is_tried_last_for_a_while() -> None:
    """A mirror that takes no connection costs one try, and is not tried first again at once."""
    async with FakeUpstream() as dead, FakeUpstream() as second, client_for(dead, second) as client:
        await dead.stop()
        digest = second.add_blob(DATA)
        assert await read(client, digest) == DATA
        assert client._mirrors.ordered() == [second.url, dead.url]


def test_mirror_comes_back() -> None:
    """A mirror that was down is tried first again after a while, or as soon as it answers."""
    now = 0.0
    mirrors = Mirrors(["http://a/", "http://b"], lambda: now)
    mirrors.mark_down("http://a")
    assert mirrors.ordered() == ["http://b", "http://a"]
    now = 31.0
    assert mirrors.ordered() == ["http://a", "http://b"]
    mirrors.mark_down("http://a")
    mirrors.mark_up("http://a")
    assert mirrors.ordered() == ["http://a", "http://b"]


async def test_not_there_counts_only_if_every_mirror_says_so() -> None:
    """404 of one mirror and trouble of another is trouble; 404 of both is "not there"."""
    async with FakeUpstream() as first, FakeUpstream() as second, client_for(first, second) as client:
        digest = Digest.of(b"nowhere")
        with pytest.raises(BlobUnknown):
            await read(client, digest)
        second.fail("blob", 500)
        with pytest.raises(UpstreamFailed):
            await read(client, digest)
        await second.stop()
        with pytest.raises(UpstreamDown):
            await read(client, digest)


# --- redirects ---------------------------------------------------------------------------------------------------------


async def test_storage_sees_no_credentials() -> None:
    """The token goes to the registry and never to the storage it redirects to."""
    async with FakeUpstream(auth="bearer", redirect=True) as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        assert await read(client, digest) == DATA
        assert "Authorization" in upstream.asked("blob")[-1].headers
        assert "Authorization" not in upstream.asked("storage")[0].headers


async def test_signed_url_is_remembered_and_renewed() -> None:
    """The storage is asked directly while the signature lasts, and the registry again when it does not."""
    async with FakeUpstream(redirect=True) as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        for _ in range(3):
            assert await read(client, digest) == DATA
        assert len(upstream.asked("blob")) == 1
        upstream.expire_signatures()
        assert await read(client, digest) == DATA
        assert len(upstream.asked("blob")) == 2


async def test_fresh_signature_that_is_refused_is_asked_for_once_more() -> None:
    """A 403 from the storage to a URL given out just now redoes the redirect once, and is then trouble, no denial."""
    async with FakeUpstream(redirect=True) as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        upstream.fail("storage", 403, times=1)
        assert await read(client, digest) == DATA
        client._finals.forget("GET", f"{upstream.url}/v2/{REPOSITORY}/blobs/{digest}")
        upstream.fail("storage", 403)
        with pytest.raises(UpstreamFailed):
            await read(client, digest)


async def test_remembered_url_is_for_its_method() -> None:
    """A URL signed for GET is not used for HEAD."""
    async with FakeUpstream(redirect=True) as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        await read(client, digest)
        async with client.ask(blob(digest, "HEAD")) as response:
            assert response.length == len(DATA)
        assert [each.method for each in upstream.asked("blob")] == ["GET", "HEAD"]


async def test_gone_storage_is_forgotten() -> None:
    """A storage host that breaks down is not asked directly again: the registry may know another."""
    async with FakeUpstream(redirect=True) as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        await read(client, digest)
        upstream.drop("storage", times=1)
        upstream.redirect = False
        assert await read(client, digest) == DATA


async def test_endless_redirects() -> None:
    """A registry that redirects for ever is broken."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        upstream.fail("blob", 302, headers={"Location": "?again"})
        with pytest.raises(UpstreamBroken):
            await read(client, Digest.of(b""))
        assert len(upstream.asked("blob")) == 6


@pytest.mark.parametrize("location", ["http://169.254.169.254/latest/", "gopher://x/", "http://user@127.0.0.1/"])
async def test_redirects_into_the_dark(location: str) -> None:
    """A redirect to a metadata address, another scheme or with credentials is not followed."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        upstream.fail("blob", 307, headers={"Location": location})
        with pytest.raises(UpstreamBroken):
            await read(client, Digest.of(b""))


# --- slots -------------------------------------------------------------------------------------------------------------


async def test_concurrent_bodies_are_limited() -> None:
    """Never more bodies at once than the configuration allows, and small answers do not wait for them."""
    async with FakeUpstream(gate=Gate()) as upstream, client_for(upstream, connections=2) as client:
        upstream.add_image(tag="v1")
        digests = [upstream.add_blob(bytes([number]) * 10) for number in range(5)]
        async with asyncio.TaskGroup() as group:
            for digest in digests:
                group.create_task(read(client, digest))
            assert upstream.gate is not None
            await upstream.gate.blocked(2)
            async with client.ask(Ask(f"/v2/{REPOSITORY}/manifests/v1", BlobUnknown)) as response:
                assert response.status == 200
            assert len(upstream.asked("blob")) == 2
            upstream.gate.open()
        assert len(upstream.asked("blob")) == 5


async def test_abandoned_body_gives_its_slot_back() -> None:
    """A reader that leaves in the middle of a body frees the slot and the upstream's connection."""
    async with FakeUpstream(gate=Gate(5)) as upstream, client_for(upstream, connections=1) as client:
        digest = upstream.add_blob(DATA)
        async with client.ask(blob(digest)) as response:
            assert await anext(response.pieces()) == DATA[:5]
        upstream.gate = None
        assert await read(client, digest) == DATA


@pytest.mark.parametrize("phase", ["header", "body", "slot"])
async def test_cancellation_leaves_nothing_behind(phase: str) -> None:
    """A caller cancelled while it waits for headers, a body or a slot leaves its slot to the next."""
    async with FakeUpstream(gate=Gate()) as upstream, client_for(upstream, connections=1) as client:
        digest = upstream.add_blob(DATA)
        held = upstream.hold("blob") if phase == "header" else None
        tasks = [asyncio.create_task(read(client, digest)) for _ in range(2 if phase == "slot" else 1)]
        await upstream.until_asked(1, "blob")
        for task in reversed(tasks):
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in results] == [asyncio.CancelledError] * len(tasks)
        if held is not None:
            held.set()
        upstream.gate = None
        assert await read(client, digest) == DATA


async def test_silent_mirror_leads_to_the_next() -> None:
    """A mirror that accepts connections and says nothing is given up on, and the next one answers, first from then on."""
    timeouts = Timeouts(connect=0.1, header=0.1)
    async with FakeUpstream() as silent, FakeUpstream() as second:
        digest = second.add_blob(DATA)
        silent.hold("blob")
        async with client_for(silent, second, timeouts=timeouts) as client:
            assert await read(client, digest) == DATA
            asked = len(silent.requests)
            assert await read(client, digest) == DATA
            assert len(silent.requests) == asked
        async with client_for(silent, timeouts=timeouts) as client:
            with pytest.raises(UpstreamUnreachable):
                await read(client, digest)


# --- replaced ----------------------------------------------------------------------------------------------------------


async def test_a_client_that_is_replaced_leaves_no_connection() -> None:
    """Exchanges under way end as they began; with the last of them, and with each that still comes, the connections go."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(DATA)
        async with client.ask(blob(digest)) as one, client.ask(blob(digest)) as other:
            await client.retire()
            assert await one.read(1 << 20) == DATA
            assert client._client._sessions
            assert await other.read(1 << 20) == DATA
        assert not client._client._sessions
        assert await read(client, digest) == DATA
        assert not client._client._sessions
        with pytest.raises(BlobUnknown):
            await read(client, Digest.of(b"another"))
        assert not client._client._sessions


async def test_a_client_at_rest_is_replaced_at_once() -> None:
    """Connections that are kept for the next exchange are closed."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        assert await read(client, upstream.add_blob(DATA)) == DATA
        assert client._client._sessions
        await client.retire()
        assert not client._client._sessions
