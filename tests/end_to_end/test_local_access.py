"""The proxy's own users before a private registry, through a whole instance."""

import asyncio
import gzip
import json
from base64 import b64encode
from time import monotonic
from typing import Self

import bcrypt
import pytest

from registry_proxy.access import caller
from registry_proxy.access.passwords import LINE_OF_ONE
from registry_proxy.config import Account, Lazy
from registry_proxy.config.units import Seconds, Size
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.attempts import AT_ONCE, PAUSE
from registry_proxy.plan.chunk_objects import ChunkName
from tests.fakes.instance import CHUNK, HOST, Benches, noise
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Answer, Wire
from tests.lazy.layers import tar

LAYER = noise(3 * CHUNK + 7)
READERS = {"alice": ("private/*",), "*": ("open/*",)}


def login(user: str, password: str = "pw") -> str:
    return "Authorization: Basic " + b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def private(upstream: FakeUpstream) -> tuple[Digest, Digest]:
    """Manifest and layer of an image in private/app, which only the proxy's account can pull."""
    upstream.auth, upstream.public_pull = "basic", False
    manifest = upstream.add_image(layers=[LAYER], tag="v1", repository="private/app")
    return manifest, upstream.add_blob(LAYER, repository="private/app")


@pytest.fixture
def settings(upstream: FakeUpstream) -> dict[str, object]:
    """alice and bob have the same password."""
    hashed = bcrypt.hashpw(b"pw", bcrypt.gensalt(4)).decode()
    users = {"alice": hashed, "bob": hashed}
    account = Account(username=upstream.username, password=upstream.password)
    return {
        "access": "local",
        "readers": READERS,
        "account": account,
        "htpasswd": users,
        "listen": True,
        "catalog": True,
    }


def paths(manifest: Digest, layer: Digest) -> list[str]:
    """Everything that can be asked about the image."""
    base = "/v2/private/app"
    whole = [
        f"{base}/manifests/v1",
        f"{base}/manifests/{manifest}",
        f"{base}/blobs/{layer}",
        f"{base}/tags/list",
        f"{base}/referrers/{manifest}",
    ]
    return [f"{path}?ns={HOST}" for path in whole] + [path.replace("/v2/", f"/v2/{HOST}/") for path in whole]


async def statuses(wire: Wire, asked: list[str], *headers: str) -> set[int]:
    """What all of these are answered with, by GET and by HEAD; no refusal has a byte of the layer."""
    found = set()
    for path in asked:
        for method in ("GET", "HEAD"):
            answer = await wire.ask(path, *headers, method=method)
            assert answer.status < 400 or LAYER[:32] not in answer.body
            found.add(answer.status)
    return found


async def test_cold_and_cached(bench: Benches, private: tuple[Digest, Digest], settings: dict[str, object]) -> None:
    """Who may read reads, who is known and may not gets 403, all others 401, whether the instance has it or not."""
    async with bench(**settings) as one, one.wire() as wire:
        for _ in range(2):
            assert await statuses(wire, paths(*private)) == {401}
            assert await statuses(wire, paths(*private), login("alice", "guess")) == {401}
            assert await statuses(wire, paths(*private), login("eve")) == {401}
            assert await statuses(wire, paths(*private), login("bob")) == {403}
            assert await statuses(wire, paths(*private), login("alice")) == {200}
        blob = f"/v2/private/app/blobs/{private[1]}?ns={HOST}"
        assert (await wire.ask(blob, login("alice"))).body == LAYER
        ranged = await wire.ask(blob, login("alice"), "Range: bytes=5-9")
        assert (ranged.status, ranged.body) == (206, LAYER[5:10])
        assert (await wire.ask(blob, login("bob"), "Range: bytes=5-9")).status == 403


async def test_the_challenge(bench: Benches, private: tuple[Digest, Digest], settings: dict[str, object]) -> None:
    """Who says nothing is asked for a name and a password, at the ping too where it names the upstream, and without one not."""
    async with bench(**settings) as one, one.wire() as wire:
        for path in (f"/v2/?ns={HOST}", paths(*private)[0]):
            answer = await wire.ask(path)
            assert answer.headers["WWW-Authenticate"] == 'Basic realm="registry-proxy"'
            assert answer.codes == ["UNAUTHORIZED"]
        assert (await wire.ask(f"/v2/?ns={HOST}", login("bob"))).status == 200
        assert (await wire.ask("/v2/")).status == 200


async def test_names_of_repositories(
    bench: Benches, private: tuple[Digest, Digest], settings: dict[str, object]
) -> None:
    """The catalog is for those who may read everything."""
    settings["readers"] = {**READERS, "bob": ("*",)}
    async with bench(**settings) as one, one.wire() as wire:
        catalog = f"/v2/_catalog?ns={HOST}"
        assert [(await wire.ask(catalog, *who)).status for who in ((), (login("alice"),), (login("bob"),))] == [
            401,
            403,
            200,
        ]


async def test_a_digest_opens_nothing(
    bench: Benches, private: tuple[Digest, Digest], settings: dict[str, object]
) -> None:
    """Without its repository a private blob is found by nobody, nor are its chunks by anybody at all."""
    _, layer = private
    where = (f"OCI-Namespace: {HOST}", "OCI-Repository: private/app")
    async with bench(**settings) as one, one.wire() as wire:
        assert (await wire.ask(f"/v2/private/app/blobs/{layer}?ns={HOST}", login("alice"))).body == LAYER
        for who in ((), (login("bob"),), (login("alice"),)):
            assert (await wire.ask(f"/v2/other/app/blobs/{layer}", *who)).status == 404
            assert (await wire.ask(f"/v2/open/app/blobs/{layer}?ns={HOST}", *who)).status in {401, 404}
            for path in (ChunkName(layer, CHUNK, 0).path, ChunkName(layer, CHUNK, None).path):
                for headers in ((), where):
                    assert (await wire.ask(path, *headers, *who)).status == 404


async def test_networks(bench: Benches, upstream: FakeUpstream) -> None:
    """To an address outside, an open upstream is closed in every form, cached or not; inside, it is as open as ever."""
    manifest = upstream.add_image(layers=[LAYER], tag="v1", repository="private/app")
    layer = upstream.add_blob(LAYER, repository="private/app")
    chunk, where = ChunkName(layer, CHUNK, 0).path, (f"OCI-Namespace: {HOST}", "OCI-Repository: private/app")
    async with bench(networks=("127.0.0.0/8",), listen=True) as one, one.wire() as wire:
        assert await statuses(wire, [*paths(manifest, layer), f"/v2/?ns={HOST}"]) == {200}
        assert (await wire.ask(chunk, *where)).status == 200
        assert (await wire.ask(f"/v2/x/blobs/{layer}")).status == 404
    asked = len(upstream.requests)
    async with bench(networks=("192.0.2.0/24", "unix"), listen=True) as one, one.wire() as wire:
        assert await statuses(wire, [*paths(manifest, layer), f"/v2/?ns={HOST}"]) == {403}
        for headers in ((), where):
            assert (await wire.ask(chunk, *headers)).status == 404
        assert (await wire.ask(f"/v2/x/blobs/{layer}")).status == 404
    assert len(upstream.requests) == asked


async def test_what_was_open_is_closed(bench: Benches, upstream: FakeUpstream, settings: dict[str, object]) -> None:
    """What a store has from when the upstream was open is for its readers alone once it is guarded."""
    manifest = upstream.add_image(layers=[LAYER], tag="v1", repository="private/app")
    layer = upstream.add_blob(LAYER, repository="private/app")
    async with bench(listen=True) as one, one.wire() as wire:
        assert await statuses(wire, paths(manifest, layer)) == {200}
    async with bench(**settings) as one, one.wire() as wire:
        assert await statuses(wire, paths(manifest, layer)) == {401}
        assert (await wire.ask(f"/v2/x/blobs/{layer}")).status == 404
        assert await statuses(wire, paths(manifest, layer), login("alice")) == {200}


@pytest.mark.parametrize("more", [{}, {"networks": ("127.0.0.0/8",)}], ids=["open", "open to networks"])
@pytest.mark.parametrize("before", ["local", "open"])
async def test_what_was_closed_is_not_opened_by_the_store(
    bench: Benches, private: tuple[Digest, Digest], settings: dict[str, object], before: str, more: dict[str, object]
) -> None:
    """What only the proxy's account could learn is for nobody once that account is gone: the upstream is asked as everybody would be."""
    if before == "open":
        settings |= {"access": "open", "readers": {}}
    async with bench(**settings) as one, one.wire() as wire:
        assert await statuses(wire, paths(*private), login("alice")) == {200}
        assert (await wire.ask(f"/v2/private/app/blobs/{private[1]}?ns={HOST}", login("alice"))).body == LAYER
    async with bench(listen=True, **more) as one, one.wire() as wire:
        for who in ((), (login("alice"),)):
            assert await statuses(wire, paths(*private), *who) <= {401, 403, 404}
            assert (await wire.ask(f"/v2/x/blobs/{private[1]}", *who)).status in {403, 404}
    async with bench(**settings) as one, one.wire() as wire:
        asked = len(one.upstream.requests)
        assert (await wire.ask(f"/v2/private/app/blobs/{private[1]}?ns={HOST}", login("alice"))).body == LAYER
        assert len(one.upstream.requests) == asked


async def test_what_was_made_of_a_private_image_is_not_opened_either(
    bench: Benches, upstream: FakeUpstream, settings: dict[str, object]
) -> None:
    """Lazy copies are the instance's own, and no upstream can be asked about them: they stay with those for whom they were made."""
    upstream.auth, upstream.public_pull = "basic", False
    files = tar({"etc/os-release": b"ID=secret\n" * 500})
    rootfs = {"type": "layers", "diff_ids": [str(Digest.of(files))]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    upstream.add_image(layers=[gzip.compress(files, 1)], config=config, tag="v1", repository="private/app")
    lazy = Lazy(smallest_layer=Size(0), wait=Seconds(60), platforms=("linux/amd64",))
    async with bench(lazy=lazy, **settings) as one, one.wire() as wire:
        made = await wire.ask(f"/v2/private/app/manifests/v1-esgz?ns={HOST}", login("alice"))
        [layer] = json.loads(made.body)["layers"]
        path = f"/v2/private/app/blobs/{layer['digest']}?ns={HOST}"
        assert len((await wire.ask(path, login("alice"))).body) == layer["size"]
        assert [(await wire.ask(path, *who)).status for who in ((), (login("bob"),))] == [401, 403]
    async with bench(lazy=lazy, listen=True) as one, one.wire() as wire:
        for asked in (path, f"/v2/private/app/manifests/{made.headers['Docker-Content-Digest']}?ns={HOST}"):
            assert (await wire.ask(asked)).status in {401, 403, 404}
    async with bench(lazy=lazy, **settings) as one, one.wire() as wire:
        assert len((await wire.ask(path, login("alice"))).body) == layer["size"]


async def test_a_claim_opens_nothing_that_was_private(
    bench: Benches, upstream: FakeUpstream, private: tuple[Digest, Digest], settings: dict[str, object]
) -> None:
    """With no private upstream left, a public manifest that names a blob of the store is still no proof that its repository has it."""
    async with bench(**settings) as one, one.wire() as wire:
        assert (await wire.ask(f"/v2/private/app/blobs/{private[1]}?ns={HOST}", login("alice"))).body == LAYER
    upstream.auth = None
    upstream.add_image(layers=[LAYER], tag="v1", repository="open/thief")
    upstream.remove(private[1], repository="open/thief")
    async with bench(listen=True) as one, one.wire() as wire:
        assert (await wire.ask(f"/v2/open/thief/manifests/v1?ns={HOST}")).status == 200
        for headers in ((), ("Range: bytes=5-9",)):
            assert (await wire.ask(f"/v2/open/thief/blobs/{private[1]}?ns={HOST}", *headers)).status == 404


class From(Wire):
    """A connection from another address of this machine."""

    source = "127.0.0.2"

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(*self._address, local_addr=(self.source, 0))
        return self


async def test_who_guesses_stops_nobody(
    bench: Benches, private: tuple[Digest, Digest], settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a flood of guesses few are checked and the others told to wait; meanwhile others log in, and those known go on reading."""
    monkeypatch.setattr(caller, "client_of", lambda address: address)  # else this machine's addresses are one client
    path = paths(*private)[0]
    async with bench(**settings) as one, one.wire() as alice, one.wire() as bob:
        assert (await alice.ask(path, login("alice"))).status == 200

        async def guess(number: int) -> list[Answer]:
            async with From(one.instance.face.addresses[0]) as wire:
                return [await wire.ask(path, login("alice", f"guess-{number}-{turn}")) for turn in range(5)]

        began = monotonic()
        guessing = [asyncio.create_task(guess(number)) for number in range(40)]
        for number in range(AT_ONCE - 1):
            assert (await bob.ask(path, login("bob", f"typo-{number}"))).status == 401
            assert (await alice.ask(path, login("alice"))).status == 200
        assert (await bob.ask(path, login("bob"))).status == 403
        told = [answer for answers in await asyncio.gather(*guessing) for answer in answers]
        assert {answer.status for answer in told} == {401, 429}
        assert sum(answer.status == 401 for answer in told) <= AT_ONCE + LINE_OF_ONE + (monotonic() - began) / PAUSE
        assert all(int(answer.headers["Retry-After"]) > 0 for answer in told if answer.status == 429)
        count = sum(answer.status == 429 for answer in told)
        figures = (await alice.ask("/metrics")).body.decode().splitlines()
        assert f'registry_proxy_refused_total{{limit="password"}} {count}.0' in figures


async def test_figures_tell_no_secret(
    bench: Benches, private: tuple[Digest, Digest], settings: dict[str, object]
) -> None:
    """Neither /stats nor /metrics has a name, a password, a private repository or a digest in it, what is being made lazy included."""
    async with bench(lazy=Lazy(wait=Seconds(0)), **settings) as one, one.wire() as wire:
        await statuses(wire, paths(*private), login("alice"))
        await wire.ask(f"/v2/private/app/manifests/v1-esgz?ns={HOST}", login("alice"))
        secrets = ("alice", "private/app", str(private[0]), str(private[1]), login("alice").split()[-1])
        for path in ("/stats", "/metrics"):
            text = (await wire.ask(path)).body.decode()
            assert not any(word in text for word in secrets)
        [job] = json.loads((await wire.ask("/stats")).body)["lazy"]["jobs"]
        assert (job["image"], job["layer"], job["size_bytes"]) == (HOST, "", len(LAYER))
