"""Manifests, lists and blob sizes from an upstream, and what becomes of nonsense."""

import hashlib
import json

import pytest

from registry_proxy.config import Account
from registry_proxy.errors import (
    AccountRefused,
    BlobUnknown,
    ManifestUnknown,
    NameUnknown,
    UpstreamBroken,
    UpstreamFailed,
)
from registry_proxy.oci import content
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, Tag
from registry_proxy.sources.registry import ManifestHead, NamePage, Ping, Registry
from tests.fakes.clients import client_for
from tests.fakes.faults import WrongRange
from tests.fakes.upstream import REPOSITORY, FakeUpstream

APP = Repository(REPOSITORY)
V1 = Tag("v1")


# --- ping --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "scheme", "status"), [(None, None, 200), ("bearer", "bearer", 200), ("basic", None, 401)]
)
async def test_ping(auth: str | None, scheme: str | None, status: int) -> None:
    """A ping tells whether the upstream lets us in and what it wants to see."""
    async with FakeUpstream(auth=auth) as upstream, client_for(upstream) as client:
        ping = await Registry(client).ping()
        assert ping == Ping(status, scheme, ping.seconds)
        assert 0 < ping.seconds < 10


async def test_ping_with_an_account() -> None:
    """A ping tries the account."""
    async with FakeUpstream(auth="basic") as upstream:
        async with client_for(upstream, account=Account("robot", "s3cret")) as client:
            assert (await Registry(client).ping()).scheme == "basic"
        async with client_for(upstream, account=Account("robot", "wrong")) as client:
            with pytest.raises(AccountRefused):
                await Registry(client).ping()


async def test_ping_of_a_web_site() -> None:
    """Something that answers with a web page, or with 404, is not a registry."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        for status, headers in ((200, {"Content-Type": "text/html"}), (404, {})):
            upstream.heal()
            upstream.fail("ping", status, headers=headers)
            with pytest.raises(UpstreamBroken):
                await Registry(client).ping()


# --- manifests ---------------------------------------------------------------------------------------------------------


async def test_manifest_by_tag_and_digest() -> None:
    """A manifest comes as the bytes the upstream has, under its media type, asked for with every type we know."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_image(tag="v1", media_type=content.DOCKER_MANIFEST)
        for reference in (V1, digest):
            fetched = await Registry(client).get_manifest(APP, reference)
            assert (fetched.body, fetched.digest) == (upstream.content[digest], digest)
            assert fetched.media_type == content.DOCKER_MANIFEST
        head = await Registry(client).head_manifest(APP, V1)
        assert head == ManifestHead(digest, content.DOCKER_MANIFEST, len(upstream.content[digest]))
        assert {each.headers["Accept"] for each in upstream.requests} == {content.ACCEPT}


async def test_sha512_manifest() -> None:
    """A manifest asked for by a sha512 digest is checked by it."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        body = upstream.content[upstream.add_image(tag="v1")]
        digest = Digest("sha512", hashlib.sha512(body).hexdigest())
        upstream.fail("manifest", 200, body=body)
        assert (await Registry(client).get_manifest(APP, digest)).digest == digest


async def test_silent_upstream() -> None:
    """Where the upstream tells no digest, HEAD has none, and GET finds it out."""
    async with FakeUpstream(digest_header=False) as upstream, client_for(upstream) as client:
        digest = upstream.add_image(tag="v1")
        assert (await Registry(client).head_manifest(APP, V1)).digest is None
        assert (await Registry(client).get_manifest(APP, V1)).digest == digest


async def test_upstream_without_head() -> None:
    """405 to HEAD says nothing about the manifest."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        upstream.fail("manifest", 405)
        assert await Registry(client).head_manifest(APP, V1) == ManifestHead(None, "", None)


async def test_media_type_of_a_plain_server() -> None:
    """A server that calls everything JSON is corrected by the manifest itself."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        body = upstream.content[upstream.add_image()]
        upstream.fail("manifest", 200, body=body, headers={"Content-Type": "application/json; charset=utf-8"})
        assert (await Registry(client).get_manifest(APP, V1)).media_type == content.OCI_MANIFEST


@pytest.mark.parametrize(
    "inner", ["a/b\r\nSet-Cookie: c=d", "a/b\n\nbody", "a b/c", "a/" + "b" * 4000, "text", "a/b;c=d", "a/\u20ac"]
)
async def test_a_media_type_that_is_none(inner: str) -> None:
    """What a manifest calls its media type and is none gets into no header: the server's word holds."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        body = json.dumps({"schemaVersion": 2, "mediaType": inner}).encode()
        upstream.fail("manifest", 200, body=body, headers={"Content-Type": "application/json"})
        assert (await Registry(client).get_manifest(APP, V1)).media_type == "application/json"


async def test_unknown_manifest_and_repository() -> None:
    """ "No such manifest" and "no such repository" are told apart where the upstream does."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        upstream.add_image(tag="v1")
        with pytest.raises(ManifestUnknown):
            await Registry(client).get_manifest(APP, Tag("v2"))
        with pytest.raises(ManifestUnknown):
            await Registry(client).head_manifest(APP, Tag("v2"))
        with pytest.raises(NameUnknown):
            await Registry(client).get_manifest(Repository("no/such"), V1)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"<!DOCTYPE html><html>Please log in.</html>", {"Content-Type": "text/html"}),
        (b"[]", {}),
        (b'{"mediaType": 5}', {}),
        (b"\xff\xfe", {}),
        (b"", {}),
        (b"{}", {"Docker-Content-Digest": str(Digest.of(b"other"))}),
        (b"{}", {"Content-Encoding": "gzip"}),
        (b'{"a":"' + bytes(content.MAX_MANIFEST) + b'"}', {}),
    ],
    ids=["login page", "array", "wrong type", "not text", "empty", "other digest", "encoded", "too large"],
)
async def test_nonsense_manifests(body: bytes, headers: dict[str, str]) -> None:
    """What is no manifest, too large, encoded or of another digest makes the upstream broken."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        upstream.fail("manifest", 200, body=body, headers=headers)
        with pytest.raises(UpstreamBroken):
            await Registry(client).get_manifest(APP, V1)


async def test_wrong_bytes_under_a_digest() -> None:
    """Bytes that do not hash to the digest asked for are refused, whatever the header says."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        wanted = Digest.of(b"{}")
        upstream.fail("manifest", 200, body=b'{"a":1}', headers={"Docker-Content-Digest": str(wanted)})
        with pytest.raises(UpstreamBroken):
            await Registry(client).get_manifest(APP, wanted)


# --- lists -------------------------------------------------------------------------------------------------------------


async def test_pages_of_tags() -> None:
    """Tags come in pages, and each says whether there is another."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        for tag in ("a", "b", "c", "d"):
            upstream.add_image(tag=tag)
        registry = Registry(client)
        assert await registry.tags(APP) == NamePage(("a", "b", "c", "d"), more=False)
        assert await registry.tags(APP, 3) == NamePage(("a", "b", "c"), more=True)
        assert await registry.tags(APP, 3, "c") == NamePage(("d",), more=False)
        assert await registry.tags(APP, 0) == NamePage((), more=False)
        upstream.tag_page = 2
        assert await registry.tags(APP) == NamePage(("a", "b"), more=True)


async def test_upstream_that_knows_no_pages() -> None:
    """From an upstream that always sends every tag, the page asked for is cut out."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        upstream.fail("tags", 200, body=json.dumps({"tags": ["z", "b", "y", "a"]}).encode())
        registry = Registry(client)
        assert await registry.tags(APP, 2) == NamePage(("z", "b"), more=True)
        assert await registry.tags(APP, 2, "b") == NamePage(("y", "a"), more=False)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"tags":"a"}', b'{"tags":[1]}'])
async def test_nonsense_tags(body: bytes) -> None:
    """A list of tags that is none makes the upstream broken."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        upstream.fail("tags", 200, body=body)
        with pytest.raises(UpstreamBroken):
            await Registry(client).tags(APP)


async def test_tags_of_an_unknown_repository() -> None:
    """The upstream's 404 is the answer, and a list without tags is empty."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        with pytest.raises(NameUnknown):
            await Registry(client).tags(APP)
        upstream.fail("tags", 200, body=b'{"name":"x","tags":null}')
        assert await Registry(client).tags(APP) == NamePage((), more=False)


async def test_catalog() -> None:
    """The repositories of an upstream are listed as it lists them."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        upstream.add_blob(b"x", repository="b/b")
        upstream.add_blob(b"x", repository="a/a")
        assert (await Registry(client).catalog(10)).names == ("a/a", "b/b")


async def test_referrers() -> None:
    """What refers to a manifest comes as the upstream's own index."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        image = upstream.add_image(tag="v1")
        signature = upstream.add_image(tag=None, subject=image, artifact_type="application/x.signature")
        body = await Registry(client).referrers(APP, image)
        assert body is not None
        assert [each["digest"] for each in json.loads(body)["manifests"]] == [str(signature)]


async def test_no_referrers_is_only_the_upstreams_word() -> None:
    """None stands for a missing API only; an outage is raised, or it would read as "unsigned"."""
    async with FakeUpstream(referrers_api=False) as upstream, client_for(upstream) as client:
        image = upstream.add_image(tag="v1")
        assert await Registry(client).referrers(APP, image) is None
        upstream.fail("referrers", 503)
        with pytest.raises(UpstreamFailed):
            await Registry(client).referrers(APP, image)


# --- blobs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"head_length": False},
        {"head_blob": False},
        {"head_blob": False, "ranges": False},
        {"redirect": True},
        {"redirect": True, "head_length": False},
        {"auth": "bearer"},
    ],
    ids=str,
)
async def test_size_of_a_blob(switches: dict[str, bool]) -> None:
    """The size is found by HEAD, or by asking for one byte where HEAD does not tell; empty blobs have one, too."""
    async with FakeUpstream(**switches) as upstream, client_for(upstream) as client:
        for data in (b"x" * 12345, b""):
            digest = upstream.add_blob(data)
            assert await Registry(client).head_blob(APP, digest) == len(data)


@pytest.mark.parametrize("head", [True, False])
async def test_an_absurd_size_is_not_believed(head: bool) -> None:
    """A size that no file can have is nonsense, however it is said."""
    async with FakeUpstream(head_blob=head) as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(b"x" * 12345)
        if head:
            upstream.fail("blob", 200, headers={"Content-Length": "9" * 19})
        else:
            upstream.spoil(WrongRange(f"bytes 0-0/{'9' * 19}"))
        with pytest.raises(UpstreamBroken, match="9999999 bytes"):
            await Registry(client).head_blob(APP, digest)


async def test_a_blob_is_not_empty_because_head_says_so() -> None:
    """Some servers announce no bytes in answer to HEAD: only the digest of nothing is that of an empty blob."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        digest = upstream.add_blob(b"x" * 12345)
        upstream.fail("blob", 200, headers={"Content-Length": "0"}, times=1)
        assert await Registry(client).head_blob(APP, digest) == 12345
        upstream.ranges = False
        upstream.fail("blob", 200, headers={"Content-Length": "0"}, times=2)
        with pytest.raises(UpstreamBroken, match="0 bytes"):
            await Registry(client).head_blob(APP, digest)


async def test_unknown_blob() -> None:
    """A blob the repository has not got is unknown."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        with pytest.raises(BlobUnknown):
            await Registry(client).head_blob(APP, Digest.of(b"nowhere"))


async def test_login_page_has_no_size() -> None:
    """A web page in place of a blob is not mistaken for it."""
    async with FakeUpstream() as upstream, client_for(upstream) as client:
        upstream.fail("blob", 200, body=b"<html>", headers={"Content-Type": "text/html"})
        with pytest.raises(UpstreamBroken):
            await Registry(client).head_blob(APP, Digest.of(b"x"))
