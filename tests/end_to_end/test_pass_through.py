"""Clients' own credentials before a private registry, through a whole instance."""

import asyncio
import gzip
import json
from base64 import b64encode
from pathlib import Path
from urllib.parse import quote

import pytest
from msgspec import structs

from registry_proxy.config import Lazy, Policy
from registry_proxy.config.units import Seconds, Size
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.challenges import parse_challenges
from registry_proxy.plan.chunk_objects import ChunkName
from tests.fakes.faults import Gate
from tests.fakes.instance import CHUNK, HOST, Benches, noise
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Answer, Wire
from tests.lazy.layers import tar

LAYER = noise(5 * CHUNK + 7)
ALICE, BOB, MALLORY = ("robot", "s3cret"), ("bob", "builder"), ("robot", "guessed")
SETTINGS = {"access": "pass-through", "listen": True}
Image = tuple[Digest, Digest]


def basic(user: tuple[str, str]) -> str:
    return "Authorization: Basic " + b64encode(":".join(user).encode()).decode()


async def login(wire: Wire, challenge: str, user: tuple[str, str] | None) -> str | None:
    """The header that a challenge asks for, as a container tool gets it; None if it is not given out."""
    [asked] = parse_challenges([challenge])
    if asked.scheme == "basic":
        return basic(user) if user else None
    path = asked.parameters["realm"].removeprefix("http://test")
    scope = f"&scope={quote(asked.parameters['scope'])}" if "scope" in asked.parameters else ""
    given = await wire.ask(f"{path}?service=any{scope}", *([basic(user)] if user else []))
    return f"Authorization: Bearer {json.loads(given.body)['token']}" if given.status == 200 else None


async def get(wire: Wire, path: str, user: tuple[str, str] | None, *headers: str, method: str = "GET") -> Answer:
    """What somebody is told after at most one login."""
    first = await wire.ask(path, *headers, method=method)
    if first.status != 401:
        return first
    shown = await login(wire, first.headers["WWW-Authenticate"], user)
    return await wire.ask(path, shown, *headers, method=method) if shown else first


@pytest.fixture(params=["bearer", "basic"])
def private(upstream: FakeUpstream, request: pytest.FixtureRequest) -> Image:
    """Manifest and layer of an image in private/app, which alice may pull; bob has an account and no more."""
    upstream.auth, upstream.public_pull, upstream.strangers = request.param, False, dict([BOB])
    manifest = upstream.add_image(layers=[LAYER], tag="v1", repository="private/app")
    return manifest, upstream.add_blob(LAYER, repository="private/app")


def paths(manifest: Digest, layer: Digest, repository: str = "private/app") -> list[str]:
    """Everything that can be asked about an image."""
    base = f"/v2/{repository}"
    whole = [
        f"{base}/manifests/v1",
        f"{base}/manifests/{manifest}",
        f"{base}/blobs/{layer}",
        f"{base}/tags/list",
        f"{base}/referrers/{manifest}",
    ]
    return [f"{path}?ns={HOST}" for path in whole] + [path.replace("/v2/", f"/v2/{HOST}/") for path in whole]


async def statuses(wire: Wire, asked: list[str], user: tuple[str, str] | None) -> set[int]:
    """What all of these are answered with, by GET and by HEAD; no refusal has a byte of the layer."""
    found = set()
    for path in asked:
        for method in ("GET", "HEAD"):
            answer = await get(wire, path, user, method=method)
            assert answer.status < 400 or LAYER[:32] not in answer.body
            found.add(answer.status)
    return found


async def test_cold_and_cached(bench: Benches, private: Image, upstream: FakeUpstream) -> None:
    """Who may read at the upstream reads here, all others are refused, whether the instance has it or not; it is fetched once."""
    refused = {403} if upstream.auth == "basic" else {401}
    async with bench(**SETTINGS) as one, one.wire() as wire:
        for _ in range(2):
            assert await statuses(wire, paths(*private), None) == {401}
            assert await statuses(wire, paths(*private), MALLORY) == {401}
            assert await statuses(wire, paths(*private), BOB) == refused
            assert await statuses(wire, paths(*private), ALICE) == {200}
        blob = f"/v2/private/app/blobs/{private[1]}?ns={HOST}"
        assert (await get(wire, blob, ALICE)).body == LAYER
        assert (await get(wire, blob, ALICE, "Range: bytes=5-9")).body == LAYER[5:10]
        assert (await get(wire, blob, BOB, "Range: bytes=5-9")).status in refused
        assert upstream.most_often(private[1]) == 1


async def test_the_challenge_names_this_proxy(bench: Benches, private: Image, upstream: FakeUpstream) -> None:
    """The challenge is of the upstream's scheme, for this proxy's realm; the ping has one where it names the upstream."""
    realm = f'Basic realm="{HOST}"' if upstream.auth == "basic" else f'Bearer realm="http://test/token/{HOST}"'
    async with bench(**SETTINGS) as one, one.wire() as wire:
        for path in (*paths(*private), f"/v2/?ns={HOST}"):
            assert (await wire.ask(path)).headers["WWW-Authenticate"].startswith(realm)
        assert (await wire.ask("/v2/")).status == 200
        assert (await get(wire, f"/v2/?ns={HOST}", ALICE)).status == 200
        assert (await get(wire, f"/v2/?ns={HOST}", MALLORY)).status == 401


@pytest.mark.parametrize("private", ["bearer"], indirect=True)
async def test_the_realm_relays_pulls_and_nothing_else(bench: Benches, private: Image, upstream: FakeUpstream) -> None:
    """Scopes lose the source host and all that is no pull; no refresh token is asked for or handed on; POST is not understood."""
    scopes = ("repository:private/app:pull,push", f"repository:{HOST}/private/app:*", "registry:catalog:*", "nonsense")
    query = "&".join(f"scope={quote(scope)}" for scope in scopes)
    path = f"/token/{HOST}?{query}&offline_token=true&account=robot&client_id=x&service=other"
    async with bench(**SETTINGS) as one, one.wire() as wire:
        answer = await wire.ask(path, basic(ALICE))
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
        given = json.loads(answer.body)
        assert set(given) == {"token", "access_token", "expires_in"}
        assert isinstance(given["expires_in"], int)  # containerd reads no fraction
        [asked] = upstream.asked(server="token")
        assert asked.query == {"service": "fake", "account": "robot", "scope": "repository:private/app:pull"}
        assert asked.headers["Authorization"] == upstream.basic
        assert (await wire.ask(path, method="POST")).status == 405
        for unknown in ("/token/other.example", "/token/", f"/token/{HOST}/x"):
            assert (await wire.ask(unknown)).status == 404
        assert (await wire.ask(path, "Authorization: Bearer x")).status == 400


async def test_a_wrong_password_reaches_the_upstream_once(
    bench: Benches, private: Image, upstream: FakeUpstream
) -> None:
    """Who guesses the same again is told the same again, by us; so is who shows nothing."""
    path = paths(*private)[0]
    async with bench(**SETTINGS) as one, one.wire() as wire:
        for _ in range(5):
            assert (await get(wire, path, MALLORY)).status == 401
        assert len(upstream.asked("token")) == (1 if upstream.auth == "bearer" else 0)
        assert len(upstream.asked("manifest")) == (1 if upstream.auth == "bearer" else 2)


async def test_without_the_upstream(bench: Benches, private: Image, upstream: FakeUpstream) -> None:
    """A live yes serves what is here while the upstream is away; who has none gets 503, and nothing."""
    served = [path for path in paths(*private) if "/tags/" not in path and "/referrers/" not in path]
    async with bench(**SETTINGS) as one, one.wire() as wire:
        answer = await wire.ask(served[0])
        shown = await login(wire, answer.headers["WWW-Authenticate"], ALICE)
        other = await login(wire, answer.headers["WWW-Authenticate"], ALICE)
        assert shown is not None
        assert other is not None
        for path in served:
            assert (await wire.ask(path, shown)).status == 200
        await upstream.stop()
        for path in served:
            assert (await wire.ask(path, shown)).status == 200
            if upstream.auth == "bearer":
                assert (await wire.ask(path, other)).status == 503
        late = await wire.ask(served[0], basic(BOB))
        assert (late.status, "Retry-After" in late.headers) == (503, True)
        await upstream.come_back()


@pytest.mark.parametrize("status", [429, 500, 418])
async def test_trouble_is_no_yes(bench: Benches, private: Image, upstream: FakeUpstream, status: int) -> None:
    """Whatever the upstream answers that is neither yes nor no is 503 to the client."""
    for kind in ("manifest", "blob", "tags"):
        upstream.fail(kind, status, headers={"Retry-After": "20"})
    async with bench(**SETTINGS) as one, one.wire() as wire:
        for path in paths(*private)[1:4]:
            answer = await wire.ask(path, basic(ALICE))
            assert (answer.status, "Retry-After" in answer.headers) == (503, True)


@pytest.mark.parametrize("private", ["bearer"], indirect=True)
async def test_a_yes_ends_with_the_token(bench: Benches, private: Image, upstream: FakeUpstream) -> None:
    """Of a token that is over when it is given out, no yes is kept: the upstream is asked each time."""
    upstream.expires_in = 0
    path = paths(*private)[1]
    async with bench(**SETTINGS) as one, one.wire() as wire:
        shown = await login(wire, (await wire.ask(path)).headers["WWW-Authenticate"], ALICE)
        assert shown is not None
        for _ in range(3):
            assert (await wire.ask(path, shown)).status == 200
        assert len(upstream.asked("manifest", "HEAD")) >= 4
        upstream.revoke_tokens()
        assert (await wire.ask(path, shown)).status == 401


@pytest.mark.parametrize("private", ["bearer"], indirect=True)
async def test_a_revoked_token_fetches_nothing(bench: Benches, private: Image, upstream: FakeUpstream) -> None:
    """Within the life of a yes, what has to be fetched needs the upstream's yes now; its no ends ours."""
    manifest, blob = paths(*private)[1], paths(*private)[2]
    async with bench(**SETTINGS) as one, one.wire() as wire:
        shown = await login(wire, (await wire.ask(manifest)).headers["WWW-Authenticate"], ALICE)
        assert shown is not None
        assert (await wire.ask(manifest, shown)).status == 200
        upstream.revoke_tokens()
        assert (await wire.ask(blob, shown)).status in {401, 403}
        assert (await wire.ask(manifest, shown)).status == 401


@pytest.mark.parametrize("private", ["bearer"], indirect=True)
async def test_another_clients_credential_takes_over(bench: Benches, private: Image, upstream: FakeUpstream) -> None:
    """A fetch for one client goes by what another one showed, if that was admitted and its own is no longer taken."""
    manifest, blob = paths(*private)[1], paths(*private)[2]
    async with bench(**SETTINGS) as one, one.wire() as wire:
        challenge = (await wire.ask(manifest)).headers["WWW-Authenticate"]
        tokens = [await login(wire, challenge, ALICE) for _ in range(2)]
        for shown in tokens:
            assert shown is not None
            assert (await wire.ask(manifest, shown)).status == 200
        del upstream.tokens[str(tokens[1]).removeprefix("Authorization: Bearer ")]
        assert (await wire.ask(blob, str(tokens[0]))).body == LAYER


async def test_nothing_goes_to_other_hosts_or_to_disk(
    bench: Benches, private: Image, upstream: FakeUpstream, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Storage that blobs are redirected to sees no credential; the store and the log have none; the next instance asks anew."""
    upstream.redirect = True
    async with bench(**SETTINGS) as one, one.wire() as wire:
        assert await statuses(wire, paths(*private), ALICE) == {200}
        assert (await get(wire, paths(*private)[2], ALICE)).body == LAYER
    stored = upstream.asked(server="storage")
    assert stored
    assert not any("Authorization" in asked.headers for asked in stored)
    secrets = [ALICE[1], basic(ALICE).split()[-1], *upstream.tokens]
    kept = b"".join(file.read_bytes() for file in (tmp_path / "store").rglob("*") if file.is_file())
    said = "".join(capfd.readouterr())
    assert not any(secret.encode() in kept or secret in said for secret in secrets)
    async with bench(**SETTINGS) as one, one.wire() as wire:
        assert await statuses(wire, paths(*private), None) == {401}
        assert await statuses(wire, paths(*private), ALICE) == {200}


@pytest.mark.parametrize("private", ["bearer"], indirect=True)
async def test_a_foreign_realm_gets_no_password(bench: Benches, private: Image, upstream: FakeUpstream) -> None:
    """A token server on another host than the upstream's, though it would answer, is asked nothing: 503."""
    upstream.realm = f"{upstream.url_of('token')}/token".replace("127.0.0.1", "localhost")
    async with bench(**SETTINGS) as one, one.wire() as wire:
        first = await wire.ask(paths(*private)[0])
        assert first.status == 401
        assert "localhost" not in first.headers["WWW-Authenticate"]
        assert (await wire.ask(f"/token/{HOST}", basic(ALICE))).status == 503
    assert not upstream.asked(server="token")


async def test_a_digest_opens_nothing(bench: Benches, private: Image, upstream: FakeUpstream) -> None:
    """Without its repository a private blob is found by nobody, nor are its chunks by anybody at all."""
    _, layer = private
    where = (f"OCI-Namespace: {HOST}", "OCI-Repository: private/app")
    upstream.add_image(tag="v1", repository="bob/app")
    async with bench(**SETTINGS) as one, one.wire() as wire:
        assert (await get(wire, f"/v2/private/app/blobs/{layer}?ns={HOST}", ALICE)).body == LAYER
        for who in ((), (basic(ALICE),)):
            assert (await wire.ask(f"/v2/private/app/blobs/{layer}", *who)).status == 404
            for path in (ChunkName(layer, CHUNK, 0).path, ChunkName(layer, CHUNK, None).path):
                for headers in ((), where):
                    assert (await wire.ask(path, *headers, *who)).status == 404
        assert (await get(wire, f"/v2/bob/app/blobs/{layer}?ns={HOST}", ALICE)).status == 404


async def test_nobody_reads_along_with_another_repositorys_download(
    bench: Benches, private: Image, upstream: FakeUpstream
) -> None:
    """While a private layer is on its way, who asks for its digest by a repository whose manifest only names it gets nothing of it."""
    claim = {"digest": str(private[1]), "size": len(LAYER), "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}
    config = upstream.add_blob(b"{}", repository="bob/app")
    manifest = {
        "schemaVersion": 2,
        "config": {"digest": str(config), "size": 2, "mediaType": "application/vnd.oci.image.config.v1+json"},
        "layers": [claim],
    }
    upstream.add_manifest(json.dumps(manifest).encode(), tag="v1", repository="bob/app")
    async with bench(**SETTINGS) as one, one.wire() as alice, one.wire() as bob:
        assert (await get(bob, f"/v2/bob/app/manifests/v1?ns={HOST}", ALICE)).status == 200
        assert (await get(alice, f"/v2/private/app/manifests/v1?ns={HOST}", ALICE)).status == 200
        upstream.gate = Gate()
        path = f"/v2/private/app/blobs/{private[1]}?ns={HOST}"
        shown = await login(alice, (await alice.ask(path)).headers["WWW-Authenticate"], ALICE)
        alice.send(path, str(shown))
        await alice.head()
        for headers in ((), ("Range: bytes=0-9",)):
            answer = await get(bob, f"/v2/bob/app/blobs/{private[1]}?ns={HOST}", ALICE, *headers)
            assert answer.status == 404
        upstream.gate.release(1 << 30)
        assert await alice.reader.readexactly(len(LAYER)) == LAYER


async def test_what_was_made_of_a_layer_is_for_those_who_have_it(bench: Benches, upstream: FakeUpstream) -> None:
    """A lazy form of a private image is for its readers; an image elsewhere that only names its layers has none."""
    upstream.auth, upstream.public_pull, upstream.strangers = "bearer", False, dict([BOB])
    files = {"etc/os-release": b"ID=secret\n" * 500}
    layer = gzip.compress(tar(files), 1)
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar(files)))]}}
    ).encode()
    manifest = upstream.add_image(layers=[layer], config=config, tag="v1", repository="private/app")
    upstream.add_manifest(upstream.content[manifest], tag="v1", repository="bob/app")
    upstream.add_blob(config, repository="bob/app")
    lazy = Lazy(smallest_layer=Size(0), wait=Seconds(60), platforms=("linux/amd64",))
    async with bench(lazy=lazy, **SETTINGS) as one, one.wire() as wire:
        for kind in ("esgz", "soci"):
            made = await get(wire, f"/v2/private/app/manifests/v1-{kind}?ns={HOST}", ALICE)
            assert made.status == 200
            for user in (BOB, None):
                assert (await get(wire, f"/v2/private/app/manifests/v1-{kind}?ns={HOST}", user)).status == 401
            assert (await get(wire, f"/v2/bob/app/manifests/v1-{kind}?ns={HOST}", ALICE)).status == 404
            digest = made.headers["Docker-Content-Digest"]
            assert (await get(wire, f"/v2/private/app/manifests/{digest}?ns={HOST}", ALICE)).body == made.body
            assert (await get(wire, f"/v2/private/app/manifests/{digest}?ns={HOST}", BOB)).status == 401
            assert (await get(wire, f"/v2/bob/app/manifests/{digest}?ns={HOST}", ALICE)).status == 404


async def test_offline(bench: Benches, private: Image) -> None:
    """An instance that asks nobody lets in nobody: 503."""
    async with bench(**SETTINGS) as one, one.wire() as wire:
        assert await statuses(wire, paths(*private), ALICE) == {200}
    async with bench(policy=Policy(offline=True), **SETTINGS) as one, one.wire() as wire:
        for path in paths(*private):
            assert (await wire.ask(path, basic(ALICE))).status == 503


@pytest.mark.parametrize(
    "header",
    ["Authorization: Bearer " + "x" * 20_000, "Authorization: Bearer \x01", "Authorization: Bearer \xe9"],
)
async def test_a_header_that_is_none_is_sent_to_nobody(
    bench: Benches, private: Image, upstream: FakeUpstream, header: str
) -> None:
    """What no registry could have given out is refused here."""
    async with bench(**SETTINGS) as one:
        for path in (paths(*private)[0], f"/token/{HOST}"):
            async with one.wire() as wire:
                assert (await wire.ask(path, header)).status == 400
    assert not upstream.requests


@pytest.mark.parametrize("private", ["bearer"], indirect=True)
async def test_many_at_once_cost_one_question(bench: Benches, private: Image, upstream: FakeUpstream) -> None:
    """Forty requests of one client for the same thing ask the upstream once whether it may."""
    path = paths(*private)[1]
    async with bench(**SETTINGS) as one, one.wire() as wire:
        shown = await login(wire, (await wire.ask(path)).headers["WWW-Authenticate"], ALICE)
        held = upstream.hold("manifest")
        before = len(upstream.asked("manifest", "HEAD"))

        async def ask() -> int:
            async with one.wire() as own:
                return (await own.ask(path, str(shown))).status

        asking = [asyncio.create_task(ask()) for _ in range(40)]
        await upstream.until_asked(before + 1, "manifest", "HEAD")
        held.set()
        assert set(await asyncio.gather(*asking)) == {200}
        assert len(upstream.asked("manifest", "HEAD")) == before + 1


async def test_what_clients_have_shown_stays_with_the_place(
    bench: Benches, private: Image, upstream: FakeUpstream
) -> None:
    """Other limits change neither a verdict nor a download under way; at another URL nobody has shown anything yet."""
    path = f"/v2/private/app/manifests/v1?ns={HOST}"
    async with bench(**SETTINGS) as one, one.wire() as wire, one.wire() as reader:
        refused = await wire.ask(path)
        shown = await login(wire, refused.headers["WWW-Authenticate"], ALICE)
        assert shown is not None
        assert (await wire.ask(path, shown)).status == 200
        upstream.gate = Gate()
        reader.send(f"/v2/private/app/blobs/{private[1]}?ns={HOST}", shown)
        await reader.head()
        upstream.gate.release(2 * CHUNK)
        begun = await reader.reader.readexactly(CHUNK)
        config, settings = one.instance.config, one.instance.config.upstreams[HOST]
        asked = len(upstream.requests)

        async def apply(**changed: object) -> None:
            await one.instance.apply(structs.replace(config, upstreams={HOST: structs.replace(settings, **changed)}))

        await apply(connections=3, tag_fresh=Seconds(3600))
        assert (await wire.ask(path, shown)).status == 200
        assert len(upstream.requests) == asked
        upstream.gate.release(len(LAYER))
        assert begun + await reader.reader.readexactly(len(LAYER) - CHUNK) == LAYER
        async with FakeUpstream(auth=upstream.auth, public_pull=False, password="another") as moved:
            await apply(urls=(moved.url,))
            assert (await wire.ask(path, shown)).status == 401
            assert len(moved.requests) > 0


async def test_nobody_has_the_proxy_guess(bench: Benches, private: Image, upstream: FakeUpstream) -> None:
    """After ten wrong passwords of an address the upstream is asked about no other from there for a while; who is known goes on."""
    path = paths(*private)[0]
    async with bench(**SETTINGS) as one, one.wire() as wire:
        assert (await get(wire, path, ALICE)).status == 200
        told = [(await get(wire, path, ("robot", f"guess {number}"))).status for number in range(20)]
        assert set(told[:10]) == {401}
        guessed = len(
            [asked for asked in upstream.requests if asked.headers.get("Authorization", "").startswith("Basic")]
        )
        late = await get(wire, path, BOB) if upstream.auth == "basic" else await wire.ask(f"/token/{HOST}", basic(BOB))
        assert (late.status, "Retry-After" in late.headers) == (429, True)
        after = len(
            [asked for asked in upstream.requests if asked.headers.get("Authorization", "").startswith("Basic")]
        )
        assert after == guessed
        assert (await get(wire, paths(*private)[3], ALICE)).status == 200
        assert b'registry_proxy_refused_total{limit="password"}' in (await wire.ask("/metrics")).body


@pytest.mark.parametrize("private", ["bearer"], indirect=True)
@pytest.mark.parametrize("status", [401, 403])
async def test_a_token_refused_for_one_repository_is_given_for_another(
    bench: Benches, private: Image, upstream: FakeUpstream, status: int
) -> None:
    """Some token servers refuse what somebody may not read, and who shows nothing: that says nothing of other repositories."""
    upstream.public_pull = True
    async with bench(**SETTINGS) as one, one.wire() as wire:
        for who in ((), (basic(ALICE),)):
            upstream.fail("token", status, times=1)
            asked = len(upstream.asked("token"))
            for _ in range(3):
                assert (await wire.ask(f"/token/{HOST}?scope=repository:a/b:pull", *who)).status == status
            assert len(upstream.asked("token")) == asked + 1
            assert (await wire.ask(f"/token/{HOST}?scope=repository:c/d:pull", *who)).status == 200


@pytest.mark.parametrize("private", ["bearer"], indirect=True)
async def test_a_farm_with_tokens_of_its_own_each(bench: Benches, private: Image, upstream: FakeUpstream) -> None:
    """Fifty clients with a token each cost one question each, and one download of the layer; a stranger among them gets nothing."""
    manifest, blob = paths(*private)[1], paths(*private)[2]
    async with bench(**SETTINGS) as one:

        async def pull(user: tuple[str, str]) -> list[Answer]:
            async with one.wire() as wire:
                shown = await login(wire, (await wire.ask(manifest)).headers["WWW-Authenticate"], user)
                return [await wire.ask(path, str(shown)) for path in (manifest, blob)]

        *pulled, stranger = await asyncio.gather(*(pull(ALICE) for _ in range(50)), pull(BOB))
    assert all(answers[0].status == 200 and answers[1].body == LAYER for answers in pulled)
    assert {answer.status for answer in stranger} == {401}
    assert upstream.most_often(private[1]) == 1
    assert len(upstream.tokens) <= 51
    assert len(upstream.asked("manifest", "HEAD")) <= 52


async def test_a_layer_of_two_repositories_is_fetched_as_who_came_last(bench: Benches, upstream: FakeUpstream) -> None:
    """What one client could not go on fetching, since it was revoked, another one fetches by a repository of their own."""
    upstream.auth, upstream.public_pull = "bearer", False
    large = noise(100 * CHUNK, 7)
    layer = upstream.add_blob(large, repository="private/app")
    upstream.add_blob(large, repository="private/other")
    first, second = (f"/v2/private/{name}/blobs/{layer}?ns={HOST}" for name in ("app", "other"))
    async with bench(**SETTINGS) as one, one.wire() as wire:
        for path in (first, second):
            assert (await get(wire, path, ALICE, "Range: bytes=0-9")).body == large[:10]
        assert upstream.distinct(layer) < len(large)
        for token in [token for token, scope in upstream.tokens.items() if scope == "repository:private/app:pull"]:
            del upstream.tokens[token]
        assert (await get(wire, second, ALICE)).body == large
