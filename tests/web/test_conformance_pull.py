"""distribution-spec, "Pull": each MUST and SHOULD that is the registry's, under the name of its section."""

import pytest

from registry_proxy.oci.content import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from registry_proxy.oci.digest import Digest
from tests.fakes.wire import Wire
from tests.web.memory import MemoryHeart, ServedManifest, memory_blob

BODY = b'{"schemaVersion": 2,\n "layers": []}'
DIGEST = Digest.of(BODY)
ABSENT = "sha256:" + 64 * "0"
NS = "?ns=registry.test"


@pytest.fixture(autouse=True)
def manifest(heart: MemoryHeart) -> ServedManifest:
    served = ServedManifest(DIGEST, OCI_MANIFEST, BODY)
    for reference in ("latest", str(DIGEST)):
        heart.manifests["registry.test", "a/b", reference] = served
    return served


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_endpoints_ping(wire: Wire, path: str, method: str) -> None:
    """Determining Support: a registry that implements the specification MUST answer 200 to /v2/."""
    answer = await wire.ask(path, method=method)
    assert answer.status == 200
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


@pytest.mark.parametrize("reference", ["latest", str(DIGEST)])
async def test_pulling_manifests_get(wire: Wire, reference: str) -> None:
    """Pulling manifests: GET by tag or digest MUST give the manifest with 200, SHOULD name its digest; its own media
    type comes without parameters; the bytes are those received."""
    answer = await wire.ask(f"/v2/a/b/manifests/{reference}{NS}")
    assert (answer.status, answer.body) == (200, BODY)
    assert answer.headers["Content-Type"] == OCI_MANIFEST
    assert answer.headers["Docker-Content-Digest"] == str(DIGEST)
    assert answer.headers["Content-Length"] == str(len(BODY))
    assert ("Cache-Control" in answer.headers) is (reference != "latest")


@pytest.mark.parametrize(
    "media_type", [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, "application/vnd.x+json"]
)
async def test_pulling_manifests_media_types(wire: Wire, heart: MemoryHeart, media_type: str) -> None:
    """Pulling manifests: Content-Type says what the manifest is, whatever the client would prefer."""
    heart.manifests["registry.test", "a/b", "x"] = ServedManifest(DIGEST, media_type, BODY)
    answer = await wire.ask(f"/v2/a/b/manifests/x{NS}", "Accept: application/vnd.other+json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, media_type)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("reference", ["absent", ABSENT, "." * 200, "x" * 129])
async def test_pulling_manifests_not_found(wire: Wire, reference: str, method: str) -> None:
    """Pulling manifests: a manifest that is not found MUST be 404, and what can be no tag is not found."""
    answer = await wire.ask(f"/v2/a/b/manifests/{reference}{NS}", method=method)
    assert answer.status == 404
    assert method == "HEAD" or answer.codes == ["MANIFEST_UNKNOWN"]


@pytest.mark.parametrize("digest", ["sha256:totallywrong", "sha256:" + 64 * "G", "sha256:" + 63 * "a", "unknown:abc"])
async def test_pulling_manifests_malformed_digest(wire: Wire, heart: MemoryHeart, digest: str) -> None:
    """Pulling manifests: a reference MUST NOT be of any other form: a malformed digest is 400 and asks nobody."""
    answer = await wire.ask(f"/v2/a/b/manifests/{digest}{NS}")
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    assert not heart.calls


async def test_pulling_manifests_ranges(wire: Wire) -> None:
    """containerd 2.1 asks manifests for ``bytes=0-``: ranges and conditions hold for them too (RFC 9110 §14)."""
    url = f"/v2/a/b/manifests/latest{NS}"
    answer = await wire.ask(url, "Range: bytes=0-")
    assert (answer.status, answer.body) == (206, BODY)
    assert answer.headers["Content-Range"] == f"bytes 0-{len(BODY) - 1}/{len(BODY)}"
    answer = await wire.ask(url, "Range: bytes=3-4,0-1")
    assert [bytes_ for _, bytes_ in answer.parts] == [BODY[3:5], BODY[:2]]
    assert answer.complete
    assert (await wire.ask(url, "Range: bytes=1000-")).status == 416
    assert (await wire.ask(url, f'If-None-Match: "{DIGEST}"')).status == 304


async def test_pulling_manifests_no_cache(wire: Wire, heart: MemoryHeart) -> None:
    """A client's no-cache reaches the heart (RFC 9111 §5.2.1.4)."""
    await wire.ask(f"/v2/a/b/manifests/latest{NS}", "Cache-Control: max-age=0, No-Cache")
    await wire.ask(f"/v2/a/b/manifests/latest{NS}", "Cache-Control: max-age=0")
    assert [call[-1] for call in heart.calls] == [True, False]


async def test_pulling_blobs_get(wire: Wire, heart: MemoryHeart) -> None:
    """Pulling blobs: GET MUST give the blob with 200; the digest named MUST be that of the body; Range SHOULD work."""
    blob = memory_blob(b"blob" * 1000)
    heart.blobs["registry.test", "a/b", str(blob.digest)] = blob
    answer = await wire.ask(f"/v2/a/b/blobs/{blob.digest}{NS}")
    assert answer.status == 200
    assert str(Digest.of(answer.body)) == answer.headers["Docker-Content-Digest"]


@pytest.mark.parametrize(
    ("asked", "status", "content_range", "length"),
    [
        ("500-1499", 206, "bytes 500-1499/4000", "1000"),
        ("500-", 206, "bytes 500-3999/4000", "3500"),
        ("-500", 206, "bytes 3500-3999/4000", "500"),
        ("2000-5000", 206, "bytes 2000-3999/4000", "2000"),
        ("500-0", 416, "bytes */4000", None),
        ("5000-10000", 416, "bytes */4000", None),
    ],
)
async def test_pulling_blobs_ranges(
    wire: Wire, heart: MemoryHeart, asked: str, status: int, content_range: str, length: str | None
) -> None:
    """Pulling blobs: a registry SHOULD support Range as RFC 9110 has it; these are the conformance suite's ranges."""
    blob = memory_blob(b"blob" * 1000)
    heart.blobs["registry.test", "a/b", str(blob.digest)] = blob
    answer = await wire.ask(f"/v2/a/b/blobs/{blob.digest}{NS}", f"Range: bytes={asked}")
    assert (answer.status, answer.headers["Content-Range"]) == (status, content_range)
    assert length is None or answer.headers["Content-Length"] == length


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_pulling_blobs_not_found(wire: Wire, method: str) -> None:
    """Pulling blobs: a blob that is not found MUST be 404."""
    answer = await wire.ask(f"/v2/a/b/blobs/{ABSENT}{NS}", method=method)
    assert answer.status == 404
    assert method == "HEAD" or answer.codes == ["BLOB_UNKNOWN"]


@pytest.mark.parametrize("reference", ["latest", str(DIGEST)])
async def test_checking_if_content_exists_manifest(wire: Wire, reference: str) -> None:
    """Checking if content exists in the registry: HEAD of a manifest MUST be 200, SHOULD have digest and length."""
    answer = await wire.ask(f"/v2/a/b/manifests/{reference}{NS}", method="HEAD")
    assert answer.status == 200
    assert answer.headers["Docker-Content-Digest"] == str(DIGEST)
    assert answer.headers["Content-Length"] == str(len(BODY))
    assert answer.headers["Content-Type"] == OCI_MANIFEST


async def test_checking_if_content_exists_blob(wire: Wire, heart: MemoryHeart) -> None:
    """Checking if content exists in the registry: HEAD of a blob MUST be 200, SHOULD have digest and length."""
    blob = memory_blob(b"blob" * 1000)
    heart.blobs["registry.test", "a/b", str(blob.digest)] = blob
    answer = await wire.ask(f"/v2/a/b/blobs/{blob.digest}{NS}", method="HEAD")
    assert answer.status == 200
    assert answer.headers["Docker-Content-Digest"] == str(blob.digest)
    assert answer.headers["Content-Length"] == "4000"


async def test_error_codes_have_the_specs_form(wire: Wire) -> None:
    """Error Codes: a JSON error body MUST be a list of errors whose code is one of the specification's."""
    answer = await wire.ask("/v2/a/b/manifests/absent" + NS)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.codes == ["MANIFEST_UNKNOWN"]


@pytest.mark.parametrize(
    ("stale", "warning"),
    [
        ('upstream said "no" \\ 5\u00a0min old\r\nX: y', '299 - "upstream said \\"no\\" \\\\ 5?min old??X: y"'),
        ("x" * 9000, f'299 - "{"x" * 1024}"'),
    ],
)
async def test_warnings(wire: Wire, heart: MemoryHeart, stale: str, warning: str) -> None:
    """Warnings: a stale manifest comes with one header of the specified form, within 4,096 bytes, on one line."""
    heart.manifests["registry.test", "a/b", "old"] = ServedManifest(DIGEST, OCI_MANIFEST, BODY, stale=stale)
    answer = await wire.ask(f"/v2/a/b/manifests/old{NS}")
    assert (answer.status, answer.headers["Warning"]) == (200, warning)


@pytest.mark.parametrize("how", ["ns", "header"])
async def test_registry_proxying_namespace(wire: Wire, how: str) -> None:
    """Registry Proxying: a proxy that uses the namespace says so in OCI-Namespace."""
    target = "/v2/a/b/manifests/latest"
    if how == "ns":
        answer = await wire.ask(f"{target}?ns=registry.test")
    else:
        answer = await wire.ask(target, "OCI-Namespace: registry.test")
    assert (answer.status, answer.headers["OCI-Namespace"]) == (200, "registry.test")
    answer = await wire.ask("/v2/registry.test/a/b/manifests/latest")
    assert answer.status == 200
    assert "OCI-Namespace" not in answer.headers
