"""Lazy forms of ordinary images: asked for by a suffix or by referrers, made once, true to their digests."""

import asyncio
import gzip
import io
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from registry_proxy.config import Lazy, LazyRule, Policy
from registry_proxy.config.units import Seconds, Size
from registry_proxy.lazy import soci
from registry_proxy.lazy.files import LayerFile, LayerIndex, regular_file
from registry_proxy.lazy.layers import own_index
from registry_proxy.lazy.ztoc.index import ZtocIndex
from registry_proxy.lazy.ztoc.ztoc import parse
from registry_proxy.oci.content import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from registry_proxy.pull import offers
from tests.fakes.instance import HOST, Bench, Benches
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.fakes.wire import Answer
from tests.lazy.conftest import LAYOUT
from tests.lazy.layers import tar

FILES = {"etc/os-release": b"ID=lazy\n", "usr/lib/big": bytes(range(256)) * 5000}
LAYER = gzip.compress(tar(FILES), 1)
CONFIG = json.dumps(
    {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar(FILES)))]}}
).encode()
ALL = Lazy(smallest_layer=Size(0), wait=Seconds(60), platforms=("linux/amd64",))


class Client:
    """What a client sees of the instance."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    async def get(
        self, kind: str, reference: object, query: str = "", *more: str, repository: str = REPOSITORY
    ) -> Answer:
        async with self._bench.wire() as wire:
            return await wire.ask(f"/v2/{repository}/{kind}/{reference}?ns={HOST}{query}", *more)

    async def document(self, kind: str, reference: object, query: str = "") -> dict[str, Any]:
        answer = await self.get(kind, reference, query)
        assert answer.status == 200, answer.body
        assert answer.headers.get("Docker-Content-Digest") in (None, str(Digest.of(answer.body)))
        found: dict[str, Any] = json.loads(answer.body)
        return found

    async def blob(self, digest: str, span: Span | None = None) -> bytes:
        ranged = () if span is None else (f"Range: bytes={span.start}-{span.stop - 1}",)
        answer = await self.get("blobs", digest, "", *ranged)
        assert answer.status == (200 if span is None else 206)
        if span is None:
            assert str(Digest.of(answer.body)) == digest
        return answer.body


@asynccontextmanager
async def client(bench: Benches, lazy: Lazy = ALL, **settings: object) -> AsyncIterator[Client]:
    async with bench(listen=True, lazy=lazy, **settings) as running:
        yield Client(running)


def layout_blob(digest: str) -> bytes:
    return (LAYOUT / "blobs" / digest.replace(":", "/")).read_bytes()


@pytest.fixture
def reference_image(upstream: FakeUpstream) -> str:
    """The image that the reference tool converted, as it was before, under the tag ``hard``; its digest."""
    body = layout_blob("sha256:f7c20e5bf31bd6dc08fe0f117a7132a4415fdabe3d6e054857e7fc0ef5ef2385")
    document = json.loads(body)
    for each in (document["config"], *document["layers"]):
        upstream.add_blob(layout_blob(each["digest"]))
    return str(upstream.add_manifest(body, tag="hard"))


async def test_v2_image_under_the_suffix_is_the_reference_tools(
    bench: Benches, upstream: FakeUpstream, reference_image: str
) -> None:
    """The image under TAG-soci, its manifests and all its zTOCs are those that the reference tool made, byte for byte."""
    [root] = json.loads((LAYOUT / "index.json").read_bytes())["manifests"]
    async with client(bench) as c:
        answer = await c.get("manifests", "hard-soci")
        assert answer.body == layout_blob(root["digest"])
        assert answer.headers["Docker-Content-Digest"] == root["digest"]
        assert answer.headers["Content-Type"] == OCI_INDEX
        for entry in json.loads(answer.body)["manifests"]:
            manifest = await c.get("manifests", entry["digest"])
            assert manifest.body == layout_blob(entry["digest"])
            for each in (json.loads(manifest.body)["config"], *json.loads(manifest.body)["layers"]):
                assert await c.blob(each["digest"]) == layout_blob(each["digest"])
        assert (await c.get("manifests", "hard")).headers["Docker-Content-Digest"] == reference_image


async def test_v1_index_is_among_the_referrers(bench: Benches, upstream: FakeUpstream, reference_image: str) -> None:
    """What the snapshotter does: referrers by type, the index encoded again as Go would, zTOCs, and files by spans that are checked."""
    image = Digest.parse(reference_image)
    signature = upstream.add_image(subject=image, artifact_type="application/signature", tag=None)
    async with client(bench) as c:
        await c.get("manifests", "hard-soci")  # so that nothing has to be waited for
        listed = await c.document("referrers", image, f"&artifactType={soci.INDEX_V1}")
        [entry] = listed["manifests"]
        answer = await c.get("manifests", entry["digest"])
        assert json.dumps(json.loads(answer.body), separators=(",", ":")).encode() == answer.body
        index = json.loads(answer.body)
        assert index["subject"]["digest"] == reference_image
        for layer in index["layers"]:
            source = layer["annotations"]["com.amazon.soci.image-layer-digest"]
            await read_all(c, source, await c.blob(layer["digest"]))
        everything = await c.document("referrers", image)
        kinds = [each["artifactType"] for each in everything["manifests"]]
        assert kinds == ["application/signature", soci.INDEX_V1]
        assert str(signature) in str(everything)


async def read_all(c: Client, source: str, ztoc: bytes) -> None:
    """Every file of a layer, by its spans; what comes is checked by the spans' digests and compared with the layer itself."""
    found = ZtocIndex(parse(ztoc))
    whole = layout_blob(source)
    for file in found.files.values():
        if file.kind == "reg":
            spans = {span: await c.blob(source, span) for span in found.spans(file)}
            assert all(data == whole[span.start : span.stop] for span, data in spans.items())
            assert await asyncio.to_thread(_length, found, file, whole) == file.size


def _length(index: LayerIndex, file: LayerFile, layer: bytes) -> int:
    return sum(map(len, index.content(file, lambda span: layer[span.start : span.stop])))


async def test_referrers_without_an_index_are_the_upstreams(bench: Benches, upstream: FakeUpstream) -> None:
    """An image of which nothing can be indexed has the upstream's referrers only, and an upstream in trouble is 502."""
    image = upstream.add_image(layers=[b"no gzip at all"], config=CONFIG)
    async with client(bench) as c:
        assert (await c.document("referrers", image, f"&artifactType={soci.INDEX_V1}"))["manifests"] == []
        upstream.fail("referrers", 503)
        answer = await c.get("referrers", image, f"&artifactType={soci.INDEX_V1}")
        assert answer.status == 502


@pytest.mark.parametrize(("unready", "status"), [("wait", 503), ("not-found", 200), ("original", 200)])
async def test_an_index_that_is_being_made(
    bench: Benches,
    upstream: FakeUpstream,
    monkeypatch: pytest.MonkeyPatch,
    unready: Literal["wait", "not-found", "original"],
    status: int,
) -> None:
    """SOCI takes an empty list for good, so it is asked to come back; whoever asks for all referrers, or is not to wait, is not."""
    monkeypatch.setattr(offers, "_SOON", 0.05)
    image = upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    v1 = f"&artifactType={soci.INDEX_V1}"
    async with client(bench, Lazy(unready=unready, smallest_layer=Size(0))) as c:
        await c.get("manifests", "v1")
        held = upstream.hold("blob")
        answer = await c.get("referrers", image, v1)
        assert answer.status == status
        if status == 503:
            assert answer.headers["Retry-After"] == "1"
        assert (await c.document("referrers", image))["manifests"] == []
        theirs = upstream.add_image(subject=image, artifact_type=soci.INDEX_V1, tag=None)
        [entry] = (await c.document("referrers", image, v1))["manifests"]
        assert entry["digest"] == str(theirs)  # theirs wins, and nobody waits for ours
        held.set()
        upstream.heal()
        await until_made(c)


@pytest.mark.parametrize("trouble", ["fails", "hangs", "is not asked"])
async def test_an_index_that_is_ready_needs_no_upstream(
    bench: Benches, upstream: FakeUpstream, reference_image: str, trouble: str
) -> None:
    """SOCI gives up on headers after three seconds: its own question is answered whatever the upstream does; "all" is not."""
    async with client(bench) as c:
        await c.get("manifests", "hard-soci")  # so that nothing has to be waited for
        v1 = f"&artifactType={soci.INDEX_V1}"
        [ready] = (await c.document("referrers", reference_image, v1))["manifests"]
    async with client(bench, policy=Policy(offline=trouble == "is not asked")) as c:
        if trouble == "fails":
            upstream.fail("referrers", 503)
        elif trouble == "hangs":
            upstream.hold("referrers")
        async with asyncio.timeout(30):
            assert (await c.document("referrers", reference_image, v1))["manifests"] == [ready]
        upstream.heal()
        upstream.fail("referrers", 503)
        assert (await c.get("referrers", reference_image)).status >= 500


async def test_documents_that_were_lost_come_back_with_the_tag(
    bench: Benches, upstream: FakeUpstream, reference_image: str
) -> None:
    """Records are bounded: an image whose manifests went is put together anew by whoever asks for its tag."""
    async with bench(listen=True, lazy=ALL) as running:
        c = Client(running)
        listed = await c.document("manifests", "hard-soci")
        for entry in listed["manifests"]:
            await running.instance.records.manifests.delete(entry["digest"])
            assert (await c.get("manifests", entry["digest"])).status == 404
            assert await c.document("manifests", "hard-soci") == listed
            assert (await c.get("manifests", entry["digest"])).status == 200


async def test_estargz_copy_under_the_suffix(bench: Benches, upstream: FakeUpstream) -> None:
    """The image under TAG-esgz has eStargz layers with every file of the original's, and says what it is a copy of."""
    image = upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    async with client(bench) as c:
        document = await c.document("manifests", "v1-esgz")
        assert document["annotations"] == {"registry-proxy/source.digest": str(image)}
        [layer] = document["layers"]
        data = await c.blob(layer["digest"])
        assert await asyncio.to_thread(estargz_files, data, layer["annotations"]) == FILES
        config = json.loads(await c.blob(document["config"]["digest"]))
        assert config["rootfs"]["diff_ids"] == [str(Digest.of(gzip.decompress(data)))]
        assert upstream.distinct(Digest.of(LAYER)) == upstream.sent(Digest.of(LAYER)) == len(LAYER)


def estargz_files(data: bytes, annotations: dict[str, str]) -> dict[str, bytes]:
    """The files of an eStargz layer, its own landmark left out, every chunk checked."""

    def read(span: Span) -> bytes:
        return data[span.start : span.stop]

    index = own_index(len(data), annotations, read)
    assert index is not None
    paths = [path for path, file in index.files.items() if file.kind == "reg" and not path.startswith(".no.")]
    return {path: b"".join(index.content(regular_file(index, path), read)) for path in paths}


async def test_copies_get_no_index(bench: Benches, upstream: FakeUpstream) -> None:
    """A copy in eStargz is lazy already: nobody's question, nor an eager repository, has its layers indexed too."""
    upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    async with client(bench) as c:
        copy = Digest.of((await c.get("manifests", "v1-esgz")).body)
        assert (await c.document("referrers", copy, f"&artifactType={soci.INDEX_V1}"))["manifests"] == []
        made = await until_made(c)
        assert [job["layer"] for job in made["jobs"]] == [str(Digest.of(LAYER))]


async def test_a_base_layer_is_converted_once(bench: Benches, upstream: FakeUpstream) -> None:
    """Two images with a layer in common, in two repositories, have one copy of it between them."""
    upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1", repository="other/app")
    async with client(bench) as c:
        one = await c.document("manifests", "v1-esgz")
        answer = await c.get("manifests", "v1-esgz", repository="other/app")
        assert json.loads(answer.body)["layers"] == one["layers"]
        digest = one["layers"][0]["digest"]
        assert (await c.get("blobs", digest, repository="other/app")).status == 200


async def test_other_repositories_do_not_have_what_was_made(bench: Benches, upstream: FakeUpstream) -> None:
    """A copy belongs to the repository of its original: asked for through another one it is not there."""
    upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    upstream.add_image(repository="other/app")
    async with client(bench) as c:
        document = await c.document("manifests", "v1-esgz")
        digest = document["layers"][0]["digest"]
        assert (await c.get("blobs", digest, repository="other/app")).status == 404


async def test_what_cannot_be_made_is_told_to_its_own_repository(bench: Benches, upstream: FakeUpstream) -> None:
    """A layer that the upstream does not have: 503 says so, and that it is no use to ask again soon."""
    missing = upstream.add_blob(gzip.compress(tar({"a": b"gone"})), repository="elsewhere")
    manifest = json.loads(upstream.content[upstream.add_image(layers=[LAYER], config=CONFIG, tag=None)])
    manifest["layers"][0] |= {"digest": str(missing), "size": len(upstream.content[missing])}
    upstream.add_manifest(json.dumps(manifest).encode(), tag="v1")
    async with client(bench) as c:
        answer = await c.get("manifests", "v1-esgz")
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "60"
        assert f"{missing} was not made lazy".encode() in answer.body


async def test_what_was_made_survives_a_restart_and_needs_no_upstream(bench: Benches, upstream: FakeUpstream) -> None:
    """After a restart, with the upstream down, the same copy is served under the same digest."""
    upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    async with client(bench) as c:
        before = await c.document("manifests", "v1-esgz")
    async with client(bench) as c:
        await upstream.stop()
        assert await c.document("manifests", "v1-esgz") == before
        await c.blob(before["layers"][0]["digest"])


async def test_an_upstream_that_hangs_delays_nobody_for_long(
    bench: Benches, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the upstream has TAG-esgz itself is asked anew now and then: without an answer, what it had, or is ready, is served."""
    monkeypatch.setattr(offers, "_PATIENCE", 0.05)
    policy = Policy(slow=Seconds(0.05), tag_fresh=Seconds(0), miss_remembered=Seconds(0))
    for tag in ("v1", "v2"):
        upstream.add_image(layers=[LAYER], config=CONFIG, tag=tag)
    theirs = upstream.add_image(layers=[b"theirs"], tag="v2-esgz")
    async with client(bench, policy=policy) as c:
        ready = [await c.get("manifests", f"{tag}-esgz") for tag in ("v1", "v2")]
        assert ready[1].headers["Docker-Content-Digest"] == str(theirs)
    async with client(bench, policy=policy) as c:  # nothing is in memory
        upstream.hold("manifest")
        async with asyncio.timeout(10):
            for tag, was in zip(("v1", "v2"), ready, strict=True):
                answer = await c.get("manifests", f"{tag}-esgz")
                assert (answer.status, answer.body) == (200, was.body)


async def test_an_upstream_tag_of_the_same_name_wins(bench: Benches, upstream: FakeUpstream) -> None:
    """Where the upstream has TAG-esgz itself, that is what is served."""
    upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    theirs = upstream.add_image(layers=[b"theirs"], tag="v1-esgz")
    async with client(bench) as c:
        assert (await c.get("manifests", "v1-esgz")).headers["Docker-Content-Digest"] == str(theirs)


async def test_a_tag_that_nobody_has_is_not_found(bench: Benches, upstream: FakeUpstream) -> None:
    """Neither TAG-esgz nor TAG: 404, and nothing is made."""
    upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    async with client(bench) as c:
        assert (await c.get("manifests", "v2-esgz")).status == 404


async def test_a_repository_may_opt_out(bench: Benches, upstream: FakeUpstream) -> None:
    """A rule turns a form off for some images; the first rule that matches holds."""
    upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    rules = (
        LazyRule(images=(f"{HOST}/other/*",), soci="off"),
        LazyRule(images=(f"{HOST}/team/*",), estargz="off"),
        LazyRule(images=("*",), soci="off"),
    )
    async with client(bench, Lazy(smallest_layer=Size(0), wait=Seconds(60), rules=rules)) as c:
        assert (await c.get("manifests", "v1-esgz")).status == 404
        assert (await c.get("manifests", "v1-soci")).status == 200


async def test_spans_are_as_large_as_a_rule_says(bench: Benches, upstream: FakeUpstream) -> None:
    """Span size by repository: the index says it, and the zTOC has as many spans as that makes."""
    layer_of_1_mib = gzip.compress(tar({"noise": random.Random(0).randbytes(1 << 20)}))
    upstream.add_image(layers=[layer_of_1_mib], config=CONFIG, tag="v1")
    rules = (LazyRule(images=("*/team/app",), span_size=Size(256 << 10)),)
    async with client(bench, Lazy(smallest_layer=Size(0), wait=Seconds(60), rules=rules)) as c:
        listed = await c.document("manifests", "v1-soci")
        index = await c.document("manifests", listed["manifests"][-1]["digest"])
        [layer] = index["layers"]
        assert layer["annotations"]["com.amazon.soci.span-size"] == str(256 << 10)
        assert 3 <= len(parse(await c.blob(layer["digest"])).digests) <= 5


async def test_docker_images_get_indexes_too(bench: Benches, upstream: FakeUpstream) -> None:
    """v1 refers to Docker's manifest by its own type; v2 makes an OCI image of it, of the same layers."""
    document = json.loads(upstream.content[upstream.add_image(layers=[LAYER], config=CONFIG, tag=None)])
    document["mediaType"] = DOCKER_MANIFEST
    document["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    document["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    body = json.dumps(document).encode()
    image = upstream.add_manifest(body, DOCKER_MANIFEST, tag="v1")
    async with client(bench) as c:
        first, second = (await c.document("manifests", "v1-soci"))["manifests"]
        assert (first["mediaType"], second["artifactType"]) == (OCI_MANIFEST, soci.INDEX_V2)
        assert first["platform"] == second["platform"] == {"architecture": "amd64", "os": "linux"}
        assert (await c.document("manifests", first["digest"]))["layers"][0]["digest"] == str(Digest.of(LAYER))
        [v1] = (await c.document("referrers", image, f"&artifactType={soci.INDEX_V1}"))["manifests"]
        index = await c.document("manifests", v1["digest"])
        assert index["subject"] == {"mediaType": DOCKER_MANIFEST, "digest": str(image), "size": len(body)}


async def test_suffixes_are_configurable(bench: Benches, upstream: FakeUpstream) -> None:
    """Another suffix does what the usual one does, which then means nothing."""
    upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    async with client(bench, Lazy(estargz_suffix=".lazy", wait=Seconds(60))) as c:
        assert (await c.get("manifests", "v1.lazy")).status == 200
        assert (await c.get("manifests", "v1-esgz")).status == 404


@pytest.mark.parametrize(("unready", "status"), [("wait", 503), ("not-found", 404), ("original", 200)])
async def test_an_image_that_is_not_ready(
    bench: Benches, upstream: FakeUpstream, unready: Literal["wait", "not-found", "original"], status: int
) -> None:
    """By policy the first request gets 503 with Retry-After, 404, or the original; the copy is made all the same."""
    image = upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    held = upstream.hold("blob")
    async with client(bench, Lazy(unready=unready, wait=Seconds(0.05))) as c:
        answer = await c.get("manifests", "v1-esgz")
        assert answer.status == status
        if status == 503:
            assert int(answer.headers["Retry-After"]) >= 1
        if status == 200:
            assert answer.headers["Docker-Content-Digest"] == str(image)
        held.set()
        upstream.heal()
        await until_made(c)
        answer = await c.get("manifests", "v1-esgz")
        assert answer.status == 200
        assert answer.headers["Docker-Content-Digest"] != str(image)


async def until_made(c: Client, state: str = "done") -> dict[str, Any]:
    """The figures of lazy images once every job is over in this state."""
    async with asyncio.timeout(60):
        while True:
            async with c._bench.wire() as wire:
                found: dict[str, Any] = json.loads((await wire.ask("/stats")).body)["lazy"]
            if found["jobs"] and {job["state"] for job in found["jobs"]} == {state}:
                return found
            await asyncio.sleep(0.05)


async def test_platforms_that_are_not_asked_for_stay(bench: Benches, upstream: FakeUpstream) -> None:
    """Of an index the configured platforms are converted, the others stay what they are."""
    amd = upstream.add_image(layers=[LAYER], config=CONFIG, tag=None)
    arm = upstream.add_image(layers=[b"arm"], tag=None)
    upstream.add_index({"linux/amd64": amd, "linux/arm64": arm}, tag="v1")
    async with client(bench) as c:
        for suffix in ("soci", "esgz"):
            found = (await c.document("manifests", f"v1-{suffix}"))["manifests"]
            digests = [each["digest"] for each in found]
            assert str(arm) in digests
            assert str(amd) not in digests
            manifest = await c.document("manifests", digests[0])
            assert manifest["mediaType"] == OCI_MANIFEST


async def test_layers_below_the_smallest_have_no_ztoc(bench: Benches, upstream: FakeUpstream) -> None:
    """An image of small layers has no SOCI index: 404 says why."""
    upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    async with client(bench, Lazy(smallest_layer=Size(len(LAYER) + 1))) as c:
        answer = await c.get("manifests", "v1-soci")
        assert answer.status == 404
        assert b"too small" in answer.body


async def test_a_layer_that_is_refused_is_told_once(bench: Benches, upstream: FakeUpstream, tmp_path: Path) -> None:
    """A broken layer makes a 404 that says why, and is not tried again after a restart."""
    upstream.add_image(layers=[LAYER[:-100]], config=CONFIG, tag="v1")
    for _ in range(2):
        async with client(bench) as c:
            answer = await c.get("manifests", "v1-esgz")
            assert answer.status == 404
            assert b"cut short" in answer.body
    assert upstream.sent(Digest.of(LAYER[:-100])) == len(LAYER) - 100


async def test_an_index_of_thousands_asks_the_upstream_nothing(bench: Benches, upstream: FakeUpstream) -> None:
    """Whoever pushes an index of countless images, or an image of countless layers, does not have all of them fetched and queued."""
    entry = {"mediaType": OCI_MANIFEST, "size": 100, "platform": {"os": "linux", "architecture": "amd64"}}
    entries = [entry | {"digest": str(Digest.of(str(number).encode()))} for number in range(2000)]
    upstream.add_manifest(json.dumps({"schemaVersion": 2, "manifests": entries}).encode(), OCI_INDEX, tag="index")
    upstream.add_image(layers=[str(number).encode() for number in range(600)], config=CONFIG, tag="image")
    async with client(bench) as c:
        for tag in ("index", "image"):
            for suffix in ("soci", "esgz"):
                assert (await c.get("manifests", f"{tag}-{suffix}")).status == 404
    assert len(upstream.asked("manifest", "GET")) < 10


async def test_eager_repositories_are_indexed_as_they_are_pulled(bench: Benches, upstream: FakeUpstream) -> None:
    """Where it is eager, a layer that was pulled and verified gets its zTOC without being asked for."""
    upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    async with client(bench, Lazy(soci="eager", smallest_layer=Size(0), wait=Seconds(60))) as c:
        await c.get("manifests", "v1")
        await c.blob(str(Digest.of(LAYER)))
        found = await until_made(c)
        assert [job["id"].partition("-")[0] for job in found["jobs"]] == ["soci"]


async def test_eager_repositories_have_what_was_here_before_indexed(bench: Benches, upstream: FakeUpstream) -> None:
    """A layer that was verified before anybody was eager is made lazy when its image is pulled again; asked for, it comes at once."""
    upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    async with client(bench, Lazy(soci="off", estargz="off")) as c:
        await c.blob(str(Digest.of(LAYER)))
    async with client(bench, Lazy(soci="eager", smallest_layer=Size(0))) as c:
        assert (await c.get("manifests", "v1")).status == 200
        await until_made(c)
        copies = [await c.get("manifests", "v1-soci") for _ in range(2)]
        assert [answer.status for answer in copies] == [200, 200]
        assert copies[0].body == copies[1].body
    assert upstream.sent(Digest.of(LAYER)) == len(LAYER)


async def test_a_job_that_is_cut_goes_on_after_a_restart(bench: Benches, upstream: FakeUpstream) -> None:
    """A conversion under way when the instance stops is taken up by the next one."""
    upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    held = upstream.hold("blob")
    async with client(bench, Lazy(wait=Seconds(0))) as c:
        assert (await c.get("manifests", "v1-esgz")).status == 503
    held.set()
    upstream.heal()
    async with client(bench, Lazy(wait=Seconds(0))) as c:
        await until_made(c)
        assert (await c.get("manifests", "v1-esgz")).status == 200


async def test_removing_a_jobs_file_cancels_it(bench: Benches, upstream: FakeUpstream, tmp_path: Path) -> None:
    """A job lives as long as its file in the store."""
    upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    held = upstream.hold("blob")
    async with client(bench, Lazy(wait=Seconds(0))) as c:
        await c.get("manifests", "v1-esgz")
        [file] = (tmp_path / "store" / "lazy" / "jobs").glob("*.json")
        file.unlink()
        await until_made(c, "cancelled")
        assert (await c.get("manifests", "v1-esgz")).status == 503
    held.set()


async def test_the_limit_of_all_that_was_made(bench: Benches, upstream: FakeUpstream) -> None:
    """Beyond it what was used longest ago goes, and is made again when it is asked for."""
    noise = [gzip.compress(tar({"noise": random.Random(seed).randbytes(30_000)})) for seed in range(3)]
    for number, layer in enumerate(noise):
        upstream.add_image(layers=[layer], config=CONFIG, tag=f"v{number}")
    async with client(bench, Lazy(limit=Size(2 * 33_000), wait=Seconds(60), soci="off")) as c:
        copies = []
        for number in (0, 1, 0, 2):
            answer = await c.get("manifests", f"v{number}-esgz")
            copies.append(json.loads(answer.body)["layers"][0]["digest"])
        assert copies[0] == copies[2]  # used again, so it stays
        assert [(await c.get("blobs", copy)).status for copy in (copies[0], copies[3])] == [200, 200]
        assert (await c.get("blobs", copies[1])).status == 404
        assert (await c.get("manifests", "v1-esgz")).status == 200
        assert (await c.get("blobs", copies[1])).status == 200


@pytest.mark.parametrize("readiness", ["on-demand", "eager"])
async def test_an_image_that_is_larger_than_the_limit(
    bench: Benches, upstream: FakeUpstream, readiness: Literal["on-demand", "eager"]
) -> None:
    """Its copies would push each other out for ever: 404 says why, and nothing is made; its index is offered all the same."""
    noise = [gzip.compress(tar({"noise": random.Random(seed).randbytes(100_000)})) for seed in range(2)]
    upstream.add_image(layers=noise, config=CONFIG, tag="v1")
    lazy = Lazy(limit=Size(150_000), estargz=readiness, smallest_layer=Size(0), wait=Seconds(60))
    async with client(bench, lazy) as c:
        assert (await c.get("manifests", "v1")).status == 200
        answer = await c.get("manifests", "v1-esgz")
        assert answer.status == 404
        assert b"lazy.limit" in answer.body
        assert (await c.get("manifests", "v1-soci")).status == 200
        assert {job["id"].split("-")[0] for job in (await until_made(c))["jobs"]} == {"soci"}


async def test_what_was_made_stays_when_room_is_needed(bench: Benches, upstream: FakeUpstream) -> None:
    """Chunks that can be fetched again make room, those of a copy do not."""
    upstream.add_image(layers=[LAYER], config=CONFIG, tag="v1")
    other = upstream.add_blob(io.BytesIO(bytes(range(256)) * 2000).getvalue())
    async with client(bench, limit=3 << 19) as c:
        document = await c.document("manifests", "v1-esgz")
        for _ in range(8):
            other = upstream.add_blob(str(other).encode() * 5000)
            await c.blob(str(other))
        upstream.fail("blob", 503)
        await c.blob(document["layers"][0]["digest"])
