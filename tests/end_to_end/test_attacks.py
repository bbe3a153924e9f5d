"""Ways around the gates that somebody has tried: each ends as it should, and none is open again."""

import asyncio
import gzip
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from registry_proxy.app import assemble
from registry_proxy.config import Account, Config, Lazy, Server, Store, Upstream
from registry_proxy.config.units import Seconds, Size
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan.chunk_objects import ChunkName
from tests.fakes.faults import Gate
from tests.fakes.instance import CHUNK, HOST, Bench, Benches, noise
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.lazy.layers import tar

LAYER = noise(3 * CHUNK + 7)
OTHER = SourceHost("public.example")
PASS = {"access": "pass-through", "listen": True}


def basic(user: str, password: str) -> str:
    return "Authorization: Basic " + b64encode(f"{user}:{password}".encode()).decode()


FILES = {"etc/os-release": b"ID=secret\n" * 500}
LAZY = Lazy(smallest_layer=Size(0), wait=Seconds(60), platforms=("linux/amd64",))
Two = Callable[..., AbstractAsyncContextManager[Bench]]


@pytest.fixture
def two(tmp_path: Path, upstream: FakeUpstream, no_blocking: None) -> Two:
    """Makes instances with two upstreams: HOST as it is told, and OTHER, which is open to everybody."""

    @asynccontextmanager
    async def make(other: FakeUpstream, **settings: object) -> AsyncIterator[Bench]:
        config = Config(
            store=Store(path=tmp_path / "store", limit=1 << 30, chunk_size=CHUNK),
            upstreams={HOST: Upstream(urls=(upstream.url,), **settings), OTHER: Upstream(urls=(other.url,))},
            server=Server(listen=("127.0.0.1:0",), drain=1),
        )
        async with assemble(config) as instance:
            await instance.face.start()
            try:
                yield Bench(instance, upstream)
            finally:
                await instance.face.stop()

    return make


@pytest.mark.parametrize(
    "closed", [{"access": "local", "networks": ("192.0.2.0/24",)}, {"networks": ("192.0.2.0/24",)}]
)
async def test_what_was_public_there_is_not_public_here(
    two: Two, upstream: FakeUpstream, closed: dict[str, object]
) -> None:
    """What an upstream gave to everybody opens nothing by way of another upstream, once only some may have it of this proxy."""
    layer = upstream.add_blob(LAYER, repository="team/app")
    thefts = [
        f"/v2/any/thing/blobs/{layer}?ns={OTHER}",
        f"/v2/any/thing/blobs/{layer}",
        ChunkName(layer, CHUNK, 0).path,
    ]
    where = (f"OCI-Namespace: {OTHER}", "OCI-Repository: any/thing")
    async with FakeUpstream() as other:
        async with two(other) as one, one.wire() as wire:
            assert (await wire.ask(f"/v2/team/app/blobs/{layer}?ns={HOST}")).body == LAYER
            assert (await wire.ask(thefts[0])).body == LAYER
        async with two(other, **closed) as one, one.wire() as wire:
            for path in thefts:
                for method in ("GET", "HEAD"):
                    for headers in ((), where, ("Range: bytes=0-9",)):
                        assert (await wire.ask(path, *headers, method=method)).status == 404


async def test_networks_hold_for_what_comes_by_them(two: Two, upstream: FakeUpstream) -> None:
    """What those within a network have read is not found by its digest through an upstream that all may use."""
    layer = upstream.add_blob(LAYER, repository="team/app")
    async with FakeUpstream() as other, two(other, networks=("127.0.0.0/8",)) as one, one.wire() as wire:
        assert (await wire.ask(f"/v2/team/app/blobs/{layer}?ns={HOST}")).body == LAYER
        assert (await wire.ask(f"/v2/any/thing/blobs/{layer}?ns={OTHER}")).status == 404
        assert (
            await wire.ask(ChunkName(layer, CHUNK, 0).path, f"OCI-Namespace: {OTHER}", "OCI-Repository: any/thing")
        ).status == 404


async def test_nobody_reads_along_from_outside(two: Two, upstream: FakeUpstream) -> None:
    """While something comes that only a network may have, a manifest elsewhere that names it is no way to read along."""
    layer = upstream.add_blob(LAYER, repository="team/app")
    async with FakeUpstream() as other, two(other, networks=("127.0.0.0/8",)) as one:
        thief = other.add_image(layers=[LAYER], tag="v1", repository="any/thing")
        other.remove(layer, repository="any/thing")
        async with one.wire() as inside, one.wire() as wire:
            assert (await wire.ask(f"/v2/any/thing/manifests/{thief}?ns={OTHER}")).status == 200
            upstream.gate = Gate()
            inside.send(f"/v2/team/app/blobs/{layer}?ns={HOST}")
            await inside.head()
            async with asyncio.timeout(20):
                for headers in ((), ("Range: bytes=0-9",)):
                    assert (await wire.ask(f"/v2/any/thing/blobs/{layer}?ns={OTHER}", *headers)).status == 404
            upstream.gate.release(1 << 30)
            assert await inside.reader.readexactly(len(LAYER)) == LAYER


async def test_who_may_read_may_not_list(bench: Benches, upstream: FakeUpstream) -> None:
    """Tags are listed to those whom the upstream tells them, not by what another client has shown."""
    upstream.add_image(layers=[LAYER], tag="v1", repository="team/app")
    listing = f"/v2/team/app/tags/list?ns={HOST}"
    async with bench(**PASS) as one, one.wire() as wire:
        assert (await wire.ask(listing, "Authorization: Bearer lister")).status == 200
        assert (await wire.ask(f"/v2/team/app/manifests/v1?ns={HOST}", "Authorization: Bearer reader")).status == 200
        upstream.fail("tags", 403, times=1)
        assert (await wire.ask(listing, "Authorization: Bearer reader")).status == 403
        assert (await wire.ask(listing, "Authorization: Bearer lister")).status == 200


async def test_who_may_list_may_not_read(bench: Benches, upstream: FakeUpstream) -> None:
    """A yes about a list of tags is none about what the tags name: registries tell the two rights apart."""
    upstream.add_image(layers=[LAYER], tag="v1", repository="team/app")
    paths = [f"/v2/team/app/{what}?ns={HOST}" for what in (f"blobs/{Digest.of(LAYER)}", "manifests/v1")]
    async with bench(**PASS) as one, one.wire() as wire:
        for path in paths:
            assert (await wire.ask(path, "Authorization: Bearer reader")).status == 200
        upstream.fail("blob", 403)
        upstream.fail("manifest", 403)
        assert (await wire.ask(f"/v2/team/app/tags/list?ns={HOST}", "Authorization: Bearer lister")).status == 200
        for path in paths:
            assert (await wire.ask(path, "Authorization: Bearer lister")).status == 403
            assert (await wire.ask(path, "Authorization: Bearer reader")).status == 200


async def test_one_thing_refused_closes_no_repository(bench: Benches, upstream: FakeUpstream) -> None:
    """Who asks for what the upstream refuses to all shuts out nobody who shows the same, anonymous ones above all."""
    upstream.add_image(layers=[LAYER], tag="v1", repository="team/app")
    quarantined = f"/v2/team/app/blobs/{Digest.of(b'quarantined')}?ns={HOST}"
    async with bench(**PASS) as one, one.wire() as wire:
        upstream.fail("blob", 403)
        assert (await wire.ask(quarantined)).status == 403
        upstream.heal()
        assert (await wire.ask(quarantined)).status == 403  # for five seconds
        assert (await wire.ask(f"/v2/team/app/manifests/v1?ns={HOST}")).status == 200
        assert (await wire.ask(f"/v2/team/app/blobs/{Digest.of(LAYER)}?ns={HOST}")).body == LAYER


async def test_no_tokens_for_who_is_outside(bench: Benches, upstream: FakeUpstream) -> None:
    """Whom an upstream is not served to cannot try passwords there either."""
    upstream.auth = "bearer"
    async with bench(networks=("192.0.2.0/24",), **PASS) as one, one.wire() as wire:
        assert (await wire.ask(f"/token/{HOST}?scope=repository:a:pull", basic("robot", "s3cret"))).status == 403
    assert not upstream.requests


@pytest.mark.parametrize("ns", ["a%0d%0aX-Evil:%20b", "%00", "%ff"])
async def test_no_header_is_made_of_a_query(bench: Benches, upstream: FakeUpstream, ns: str) -> None:
    """A name in the query that is none comes back in no header, and breaks nothing."""
    async with bench(listen=True, catalog=True) as one, one.wire() as wire:
        for path in (f"/v2/{HOST}/_catalog?ns={ns}", f"/v2/?ns={ns}", f"/v2/team/app/tags/list?ns={ns}"):
            answer = await wire.ask(path)
            assert "X-Evil" not in answer.headers
            assert "OCI-Namespace" not in answer.headers
            assert answer.status < 500


def private_image(upstream: FakeUpstream) -> tuple[bytes, Digest, bytes]:
    """An image of one layer in private/app that can be made lazy; its layer, manifest and config."""
    layer = gzip.compress(tar(FILES), 1)
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar(FILES)))]}}
    ).encode()
    return layer, upstream.add_image(layers=[layer], config=config, tag="v1", repository="private/app"), config


async def test_lazy_forms_stay_behind_their_door(bench: Benches, upstream: FakeUpstream) -> None:
    """What was made for the readers of a guarded upstream is not found by its digest once it is asked as everybody."""
    upstream.auth, upstream.public_pull = "basic", False
    private_image(upstream)
    guarded = {"access": "local", "networks": ("127.0.0.0/8",), "account": Account("robot", password="s3cret")}
    async with bench(lazy=LAZY, listen=True, **guarded) as one, one.wire() as wire:
        made = json.loads((await wire.ask(f"/v2/private/app/manifests/v1-esgz?ns={HOST}")).body)
        blobs = [made["config"]["digest"], *(layer["digest"] for layer in made["layers"])]
        for digest in blobs:
            assert (await wire.ask(f"/v2/private/app/blobs/{digest}?ns={HOST}")).status == 200
    async with bench(lazy=LAZY, listen=True) as one, one.wire() as wire:
        for digest in blobs:
            assert (await wire.ask(f"/v2/private/app/blobs/{digest}?ns={HOST}")).status in {401, 403, 404}
            assert (await wire.ask(f"/v2/x/blobs/{digest}")).status in {401, 403, 404}
    async with bench(lazy=LAZY, listen=True, **guarded) as one, one.wire() as wire:
        for digest in blobs:
            assert (await wire.ask(f"/v2/private/app/blobs/{digest}?ns={HOST}")).status == 200


@pytest.mark.parametrize("size", [1 << 43, (1 << 63) - 1])
@pytest.mark.parametrize("ranges", [None, "0-9", f"{1 << 42}-", f"0-{(1 << 42) - 1},{1 << 42}-"])
async def test_what_a_manifest_says_of_a_size_costs_nobody_anything(
    bench: Benches, upstream: FakeUpstream, size: int, ranges: str | None
) -> None:
    """A layer of absurd size, as anybody may name it who may push anywhere, is refused at once, and holds up nobody else."""
    digest, other = upstream.add_blob(LAYER), upstream.add_blob(noise(CHUNK, 1))
    body = upstream.content[upstream.add_image(layers=[LAYER])]
    upstream.add_manifest(body.replace(b'"size": %d' % len(LAYER), b'"size": %d' % size), tag="v1")
    more = () if ranges is None else (f"Range: bytes={ranges}",)
    async with bench(listen=True) as one, one.wire() as eve, one.wire() as alice, asyncio.timeout(10):
        assert (await eve.ask(f"/v2/{REPOSITORY}/manifests/v1?ns={HOST}")).status == 200
        assert (await eve.ask(f"/v2/{REPOSITORY}/blobs/{digest}?ns={HOST}", *more)).status >= 400
        assert (await alice.ask(f"/v2/{REPOSITORY}/blobs/{other}?ns={HOST}")).status == 200
        for _ in range(2):  # the first may be who finds out
            answer = await alice.ask(f"/v2/{REPOSITORY}/blobs/{digest}?ns={HOST}")
        assert answer.body == LAYER


@pytest.mark.parametrize("lie", ["has not", "other size"])
async def test_nobody_spoils_the_making_of_anothers_layer(bench: Benches, upstream: FakeUpstream, lie: str) -> None:
    """Who names a layer that he does not have, or names it wrongly, gets no lazy form of it; whoever has it does."""
    layer, manifest, config = private_image(upstream)
    body = upstream.content[manifest]
    if lie == "other size":
        body = body.replace(b'"size": %d' % len(layer), b'"size": 17')
        upstream.add_blob(layer, repository="bob/app")
    upstream.add_manifest(body, tag="v1", repository="bob/app")
    upstream.add_blob(config, repository="bob/app")

    async with bench(lazy=LAZY, **PASS) as one:

        async def ask(repository: str, kind: str) -> int:
            async with one.wire() as wire:
                return (await wire.ask(f"/v2/{repository}/manifests/v1-{kind}?ns={HOST}")).status

        for kind in ("soci", "esgz"):
            assert await ask("bob/app", kind) == 503
            assert await ask("private/app", kind) == 200


async def test_nobody_is_in_the_way_of_the_making(bench: Benches, upstream: FakeUpstream) -> None:
    """While it is found out that one does not have the layer that he names, another one waits, and gets what is made of his."""
    _, manifest, config = private_image(upstream)
    upstream.add_manifest(upstream.content[manifest], tag="v1", repository="bob/app")
    upstream.add_blob(config, repository="bob/app")
    async with bench(lazy=LAZY, **PASS) as one, one.wire() as alice, one.wire() as bob:
        held = upstream.hold("blob")
        bob.send(f"/v2/bob/app/manifests/v1-soci?ns={HOST}")
        await upstream.until_asked(1, "blob")
        alice.send(f"/v2/private/app/manifests/v1-soci?ns={HOST}")
        while not any(entry.others for entry in one.instance.manifests._queue._entries.values()):  # noqa: ASYNC110
            await asyncio.sleep(0)
        held.set()
        assert (await alice.answer()).status == 200
        assert (await bob.answer()).status == 404


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_one_mistake_is_one_guess(bench: Benches, upstream: FakeUpstream, auth: str) -> None:
    """A machine whose password is wrong shuts nobody out who comes from its address, however many repositories it asks for."""
    upstream.auth = auth
    upstream.add_image(layers=[LAYER], tag="v1", repository="team/app")
    path = "/token/{0}?scope=repository:{1}:pull" if auth == "bearer" else "/v2/{1}/manifests/v1?ns={0}"
    async with bench(**PASS) as one, one.wire() as wire:
        await wire.ask(path.format(HOST, "first"))
        for number in range(20):
            assert (await wire.ask(path.format(HOST, f"team/{number}"), basic("robot", "typo"))).status == 401
        assert (await wire.ask(path.format(HOST, "team/app"), basic("robot", "s3cret"))).status == 200
