"""Manifests under freshness, over a fake upstream; the clock is passed in."""

import asyncio
import json
from dataclasses import dataclass

import pytest

from registry_proxy.config import Policy
from registry_proxy.errors import Denied, ManifestUnknown, NameUnknown, Offline, Trouble, UpstreamBroken
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, Tag
from registry_proxy.pull.manifests import ServedManifest
from tests.fakes.instance import HOST, Bench, Benches
from tests.fakes.upstream import REPOSITORY, FakeUpstream

V1 = Tag("v1")
HTML = b"<!DOCTYPE html><html>Please log in.</html>"


@dataclass
class Clock:
    """A wall clock that a test moves."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return self.now


async def get(bench: Bench, reference: Tag | Digest = V1, *, no_cache: bool = False) -> ServedManifest:
    """The manifest of the test repository."""
    return await bench.instance.manifests.get(HOST, Repository(REPOSITORY), reference, no_cache=no_cache)


def asked(upstream: FakeUpstream, method: str) -> int:
    """How often the upstream was asked for a manifest in this way."""
    return len(upstream.asked("manifest", method))


async def test_a_fresh_tag_asks_nobody(bench: Benches, upstream: FakeUpstream) -> None:
    """Within its time a tag is served from the store."""
    digest = upstream.add_image(tag="v1")
    clock = Clock()
    async with bench(clock=clock) as b:
        assert (await get(b)).digest == digest
        clock.now += 59
        served = await get(b)
    assert (served.digest, served.tier, served.stale) == (digest, "store", None)
    assert (asked(upstream, "GET"), asked(upstream, "HEAD")) == (1, 0)


async def test_an_aged_tag_is_revalidated_by_head(bench: Benches, upstream: FakeUpstream) -> None:
    """Beyond its time one HEAD tells that the digest is still the same."""
    upstream.add_image(tag="v1")
    clock = Clock()
    async with bench(clock=clock) as b:
        await get(b)
        clock.now += 61
        await get(b)
        await get(b)
    assert (asked(upstream, "GET"), asked(upstream, "HEAD")) == (1, 1)


async def test_a_tag_moves_once_it_is_asked_for_again(bench: Benches, upstream: FakeUpstream) -> None:
    """A pushed image is served after the old tag's time, or at once to a client that says no-cache."""
    upstream.add_image(tag="v1")
    clock = Clock()
    async with bench(clock=clock) as b:
        old = await get(b)
        new = upstream.add_image(layers=[b"another"], tag="v1")
        assert (await get(b)).digest == old.digest
        assert (await get(b, no_cache=True)).digest == new
        assert (await get(b)).digest == new


@pytest.mark.parametrize("status", [500, 503, 408])
async def test_trouble_serves_the_stale_manifest_with_a_warning(
    bench: Benches, upstream: FakeUpstream, status: int
) -> None:
    """An upstream in trouble is not the client's trouble while there is an older answer."""
    digest = upstream.add_image(tag="v1")
    clock = Clock()
    async with bench(clock=clock) as b:
        await get(b)
        clock.now += 3600
        upstream.fail("manifest", status)
        served = await get(b)
    assert served.digest == digest
    assert served.stale


async def test_a_spent_rate_limit_serves_the_stale_manifest(bench: Benches, upstream: FakeUpstream) -> None:
    """429 with a long Retry-After is trouble as well."""
    upstream.add_image(tag="v1")
    clock = Clock()
    async with bench(clock=clock) as b:
        await get(b)
        clock.now += 3600
        upstream.fail("manifest", 429, headers={"Retry-After": "3600"})
        assert (await get(b)).stale


async def test_a_dead_upstream_serves_the_stale_manifest(bench: Benches, upstream: FakeUpstream) -> None:
    """No connection is trouble."""
    upstream.add_image(tag="v1")
    clock = Clock()
    async with bench(clock=clock) as b:
        await get(b)
        clock.now += 3600
        await upstream.stop()
        assert (await get(b)).stale


async def test_a_slow_upstream_serves_the_stale_manifest_and_goes_on_asking(
    bench: Benches, upstream: FakeUpstream
) -> None:
    """After the slow limit the old manifest is served; the answer, when it comes, moves the tag."""
    upstream.add_image(tag="v1")
    clock = Clock()
    async with bench(clock=clock, policy=Policy(slow=0.05)) as b:
        old = await get(b)
        new = upstream.add_image(layers=[b"another"], tag="v1")
        clock.now += 3600
        held = upstream.hold("manifest")
        served = await get(b)
        assert (served.digest, bool(served.stale)) == (old.digest, True)
        held.set()
        await upstream.until_asked(2, "manifest", "GET")
        assert (await get(b, no_cache=True)).digest == new
        assert (await get(b)).digest == new


async def test_not_found_is_an_answer_that_is_passed_on_and_remembered_briefly(
    bench: Benches, upstream: FakeUpstream
) -> None:
    """A deleted tag is gone at once after its time, asked for once in five seconds, and back when it is back."""
    upstream.add_image(tag="v1")
    clock = Clock()
    async with bench(clock=clock) as b:
        await get(b)
        saved = upstream.tags.pop((REPOSITORY, "v1"))
        clock.now += 3600
        for _ in range(3):
            with pytest.raises(ManifestUnknown):
                await get(b)
        assert asked(upstream, "HEAD") == 1
        assert asked(upstream, "GET") == 1
        upstream.tags[REPOSITORY, "v1"] = saved
        clock.now += 5
        assert (await get(b)).digest == saved


async def test_a_refusal_of_an_anonymous_request_is_an_answer(bench: Benches, upstream: FakeUpstream) -> None:
    """Without an account, 403 is for the client."""
    upstream.add_image(tag="v1")
    clock = Clock()
    async with bench(clock=clock) as b:
        await get(b)
        clock.now += 3600
        upstream.fail("manifest", 403)
        with pytest.raises(Denied):
            await get(b)


async def test_a_digest_is_served_for_ever(bench: Benches, upstream: FakeUpstream) -> None:
    """What is named by its digest never asks again, whatever the upstream's state."""
    digest = upstream.add_image(tag="v1")
    async with bench() as b:
        await get(b, digest)
        await upstream.stop()
        assert (await get(b, digest)).digest == digest


async def test_a_manifest_of_another_repository_has_to_be_asked_for(bench: Benches, upstream: FakeUpstream) -> None:
    """That a digest is stored does not make it a member of every repository."""
    digest = upstream.add_image(tag="v1")
    async with bench() as b:
        await get(b, digest)
        with pytest.raises(NameUnknown):
            await b.instance.manifests.get(HOST, Repository("someone/else"), digest)


@pytest.mark.parametrize("body", [HTML, b"[]", b'{"schemaVersion": 2', b""])
async def test_nonsense_is_never_a_manifest(bench: Benches, upstream: FakeUpstream, body: bytes) -> None:
    """A login page with status 200 is trouble, and is not kept."""
    digest = upstream.add_image(tag="v1")
    upstream.fail("manifest", 200, headers={"Content-Type": "text/html"}, body=body)
    async with bench() as b:
        with pytest.raises(Trouble):
            await get(b)
        upstream.heal()
        assert (await get(b)).digest == digest


async def test_a_manifest_that_does_not_hash_to_its_digest_is_refused(bench: Benches, upstream: FakeUpstream) -> None:
    """Manifests are hashed before they are served."""
    digest = upstream.add_image(tag="v1")
    upstream.content[digest] = upstream.content[digest] + b" "
    async with bench() as b:
        with pytest.raises(UpstreamBroken):
            await get(b, digest)


async def test_a_manifest_of_a_thousand_layers_does_not_fill_the_disk(bench: Benches, upstream: FakeUpstream) -> None:
    """What is noted of a manifest grows with what it says, and not with the square of that; blobs beyond a number are asked for."""
    blobs = [str(number).encode() for number in range(3000)]
    layers = [{"digest": str(upstream.add_blob(blob)), "size": len(blob)} for blob in blobs]
    upstream.add_manifest(json.dumps({"schemaVersion": 2, "layers": layers}).encode(), tag="v1")
    async with bench() as b:
        await get(b)
        volume = await b.instance.records._backing._run(b.instance.records._backing._file.volume)
        assert volume is not None
        assert volume < 8 << 20
        assert await b.read(Digest.of(blobs[0])) == blobs[0]
        assert await b.read(Digest.of(blobs[-1])) == blobs[-1]
    assert len(upstream.asked("blob", "HEAD")) == 1


async def test_many_clients_of_a_cold_tag_ask_once(bench: Benches, upstream: FakeUpstream) -> None:
    """A thousand nodes starting one image are one question."""
    upstream.add_image(tag="v1")
    async with bench() as b:
        await asyncio.gather(*(get(b) for _ in range(100)))
    assert asked(upstream, "GET") == 1


async def test_offline_serves_the_stale_tag_and_refuses_the_unknown(bench: Benches, upstream: FakeUpstream) -> None:
    """The offline switch asks nobody."""
    upstream.add_image(tag="v1")
    async with bench() as b:
        await get(b)
    before = len(upstream.requests)
    async with bench(policy=Policy(offline=True)) as b:
        assert (await get(b)).stale == "offline"
        with pytest.raises(Offline):
            await get(b, Tag("v2"))
    assert len(upstream.requests) == before


async def test_upstream_is_asked_with_every_manifest_type(bench: Benches, upstream: FakeUpstream) -> None:
    """One answer has to be right for every client, whatever the first one accepts."""
    upstream.add_image(tag="v1")
    async with bench() as b:
        await get(b)
    accept = upstream.asked("manifest")[0].headers["Accept"]
    for kind in ("image.index.v1", "image.manifest.v1", "manifest.list.v2", "distribution.manifest.v2"):
        assert kind in accept


async def test_referrers_fall_back_to_the_tag_schema(bench: Benches, upstream: FakeUpstream) -> None:
    """Where the upstream has no referrers API, the index under the digest's tag is read; neither is an empty list."""
    subject = upstream.add_image(tag="v1")
    repository = Repository(REPOSITORY)
    upstream.referrers_api = False
    async with bench() as b:
        assert await b.instance.discovery.referrers(HOST, repository, subject) == []
    signature = upstream.add_image(tag=None, subject=subject, artifact_type="application/x.signature")
    upstream.add_index({"/": signature}, tag=f"sha256-{subject.hex}")
    async with bench(clock=Clock(4e9)) as b:
        found = await b.instance.discovery.referrers(HOST, repository, subject)
    assert [one["digest"] for one in found] == [str(signature)]


async def test_an_outage_does_not_look_like_no_referrers(bench: Benches, upstream: FakeUpstream) -> None:
    """A policy controller must not read an outage as "unsigned"."""
    subject = upstream.add_image(tag="v1")
    upstream.fail("referrers", 500)
    async with bench() as b:
        with pytest.raises(Trouble):
            await b.instance.discovery.referrers(HOST, Repository(REPOSITORY), subject)


async def test_a_type_that_is_no_text_does_no_harm(bench: Benches, upstream: FakeUpstream) -> None:
    """Descriptors are passed on as they are, whatever an upstream says in them."""
    upstream.fail("referrers", 200, body=b'{"manifests": [{"artifactType": ["x"]}]}')
    async with bench() as b:
        found = await b.instance.discovery.referrers(HOST, Repository(REPOSITORY), Digest.of(b"subject"))
    assert found == [{"artifactType": ["x"]}]
