"""distribution-spec, "Content Discovery": each MUST and SHOULD that is the registry's, under the name of its section."""

import msgspec
import pytest

from registry_proxy.errors import UpstreamFailed
from registry_proxy.oci.content import OCI_INDEX, OCI_MANIFEST
from tests.fakes.wire import Wire
from tests.web.memory import MemoryHeart

SUBJECT = "sha256:" + 64 * "a"
SIGNATURE = {"mediaType": OCI_MANIFEST, "digest": "sha256:" + 64 * "1", "size": 7, "artifactType": "application/sig"}
SBOM = {"mediaType": OCI_MANIFEST, "digest": "sha256:" + 64 * "2", "size": 9, "artifactType": "application/sbom",
        "annotations": {"org.example": "kept"}}  # fmt: skip


@pytest.fixture(autouse=True)
def lists(heart: MemoryHeart) -> None:
    heart.tag_names["registry.test", "a"] = ["v1", "v2", "v3", "v4", "v5"]
    heart.tag_names["registry.test", "empty"] = []
    heart.repositories["registry.test"] = ["a", "b", "c"]
    heart.referring["registry.test", "a", SUBJECT] = [SIGNATURE, SBOM]


async def test_listing_tags(wire: Wire) -> None:
    """Listing Tags: MUST be 200 with name and tags in lexical order."""
    answer = await wire.ask("/v2/a/tags/list?ns=registry.test")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert msgspec.json.decode(answer.body) == {"name": "a", "tags": ["v1", "v2", "v3", "v4", "v5"]}
    assert "Link" not in answer.headers


async def test_listing_tags_none(wire: Wire) -> None:
    """Listing Tags: the list MAY be empty, and is a list all the same."""
    answer = await wire.ask("/v2/empty/tags/list?ns=registry.test")
    assert msgspec.json.decode(answer.body) == {"name": "empty", "tags": []}


async def test_listing_tags_pages(wire: Wire) -> None:
    """Listing Tags: with ``n`` there MUST be ``n`` results and a Link with rel="next" while there are more; following
    it visits every tag once, in the client's own form of the URL."""
    url, seen = "/v2/registry.test/a/tags/list?n=2", []
    while url:
        answer = await wire.ask(url)
        page = msgspec.json.decode(answer.body)
        assert page["name"] == "registry.test/a"
        seen.append(page["tags"])
        link = answer.headers.get("Link", "")
        assert not link or link.endswith('>; rel="next"')
        url = link[1:].partition(">")[0]
    assert seen == [["v1", "v2"], ["v3", "v4"], ["v5"]]


async def test_listing_tags_n_is_zero(wire: Wire) -> None:
    """Listing Tags: when ``n`` is zero the list MUST be empty and there MUST NOT be a Link."""
    answer = await wire.ask("/v2/a/tags/list?ns=registry.test&n=0")
    assert msgspec.json.decode(answer.body)["tags"] == []
    assert "Link" not in answer.headers


async def test_listing_tags_last(wire: Wire) -> None:
    """Listing Tags: the tags after ``last`` MUST NOT include it; ``last`` need not be a tag."""
    answer = await wire.ask("/v2/a/tags/list?ns=registry.test&last=v3")
    assert msgspec.json.decode(answer.body)["tags"] == ["v4", "v5"]
    answer = await wire.ask("/v2/a/tags/list?ns=registry.test&last=v3.5&n=1")
    assert msgspec.json.decode(answer.body)["tags"] == ["v4"]
    assert answer.headers["Link"] == '</v2/a/tags/list?ns=registry.test&last=v4&n=1>; rel="next"'


async def test_listing_tags_unknown_repository(wire: Wire) -> None:
    """Listing Tags: a repository that is not there is 404 NAME_UNKNOWN (code-7)."""
    answer = await wire.ask("/v2/nowhere/tags/list?ns=registry.test")
    assert (answer.status, answer.codes) == (404, ["NAME_UNKNOWN"])


async def test_listing_referrers(wire: Wire) -> None:
    """Listing Referrers: MUST be 200 with an image index of descriptors, whatever else they carry."""
    answer = await wire.ask(f"/v2/a/referrers/{SUBJECT}?ns=registry.test")
    assert (answer.status, answer.headers["Content-Type"]) == (200, OCI_INDEX)
    assert msgspec.json.decode(answer.body) == {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [SIGNATURE, SBOM],
    }
    assert "OCI-Filters-Applied" not in answer.headers


@pytest.mark.parametrize("repository", ["a", "nowhere"])
async def test_listing_referrers_of_what_is_unknown(wire: Wire, repository: str) -> None:
    """Listing Referrers: MUST NOT be 404; no referrers are an empty list."""
    answer = await wire.ask(f"/v2/{repository}/referrers/sha256:{64 * 'f'}?ns=registry.test")
    assert (answer.status, answer.headers["Content-Type"]) == (200, OCI_INDEX)
    assert msgspec.json.decode(answer.body)["manifests"] == []


@pytest.mark.parametrize(
    ("wanted", "found"), [("application%2Fsbom", [SBOM]), ("application/sig", [SIGNATURE]), ("application/none", [])]
)
async def test_listing_referrers_filtered(wire: Wire, wanted: str, found: list[object]) -> None:
    """Listing Referrers: a filter that is applied MUST be named in OCI-Filters-Applied."""
    answer = await wire.ask(f"/v2/a/referrers/{SUBJECT}?ns=registry.test&artifactType={wanted}")
    assert msgspec.json.decode(answer.body)["manifests"] == found
    assert answer.headers["OCI-Filters-Applied"] == "artifactType"


async def test_listing_referrers_invalid(wire: Wire) -> None:
    """Listing Referrers: a digest with invalid syntax MUST be 400."""
    assert (await wire.ask("/v2/a/referrers/sha256:bad?ns=registry.test")).status == 400


async def test_listing_referrers_in_trouble(wire: Wire, heart: MemoryHeart) -> None:
    """An outage MUST NOT look like "unsigned": trouble is 502, never an empty list."""
    heart.error = UpstreamFailed("503 from upstream")
    assert (await wire.ask(f"/v2/a/referrers/{SUBJECT}?ns=registry.test")).status == 502


async def test_catalog_pages(wire: Wire) -> None:
    """The catalog of a named upstream has the same pages; unnamed it is nobody's."""
    answer = await wire.ask("/v2/_catalog?ns=registry.test&n=2")
    assert msgspec.json.decode(answer.body) == {"repositories": ["a", "b"]}
    assert answer.headers["Link"] == '</v2/_catalog?ns=registry.test&n=2&last=b>; rel="next"'
    assert msgspec.json.decode((await wire.ask("/v2/registry.test/_catalog")).body)["repositories"] == ["a", "b", "c"]
    assert (await wire.ask("/v2/_catalog")).status == 404
