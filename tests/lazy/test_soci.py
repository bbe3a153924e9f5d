"""SOCI's documents, compared with those that the reference tool wrote."""

import json

import pytest

from registry_proxy.errors import ManifestInvalid
from registry_proxy.lazy import soci
from registry_proxy.lazy.soci import GoDescriptor, GoPlatform, ZtocOf
from registry_proxy.oci.content import DOCKER_MANIFEST, OCI_MANIFEST
from registry_proxy.oci.digest import Digest
from tests.lazy.conftest import LAYOUT, Reference

IMAGE = (
    "sha256:f7c20e5bf31bd6dc08fe0f117a7132a4415fdabe3d6e054857e7fc0ef5ef2385"  # before the reference tool annotated it
)


def blob(digest: str) -> bytes:
    return (LAYOUT / "blobs" / digest.replace(":", "/")).read_bytes()


@pytest.fixture
def ztocs(references: dict[str, Reference]) -> dict[str, ZtocOf]:
    return {
        str(Digest.of(found.layer)): ZtocOf(Digest.of(found.ztoc), len(found.ztoc), 4 << 20)
        for found in references.values()
    }


def test_v2_image_is_that_of_the_reference_tool(ztocs: dict[str, ZtocOf]) -> None:
    """Image manifest, SOCI index and image index have the digests that the reference tool's have."""
    [root] = json.loads((LAYOUT / "index.json").read_bytes())["manifests"]
    image = soci.image_v2(blob(IMAGE), ztocs)
    entry = GoDescriptor(OCI_MANIFEST, IMAGE, len(blob(IMAGE)), platform=GoPlatform("amd64", "linux"))
    listed = soci.list_v2([entry], {IMAGE: image}, {})
    assert listed == blob(root["digest"])
    wanted = [each["digest"] for each in json.loads(listed)["manifests"]]
    assert [str(Digest.of(image.manifest)), str(Digest.of(image.index))] == wanted
    assert image.index == blob(wanted[1])


def test_v1_index_names_its_subject_and_is_compact(ztocs: dict[str, ZtocOf]) -> None:
    """A v1 index is the v2 one with another config type and the untouched image as its subject, fields in Go's order."""
    index = soci.index_v1(blob(IMAGE), OCI_MANIFEST, ztocs)
    document = json.loads(index)
    assert list(document) == ["schemaVersion", "mediaType", "config", "layers", "subject", "annotations"]
    assert document["subject"] == {"mediaType": OCI_MANIFEST, "digest": IMAGE, "size": len(blob(IMAGE))}
    assert document["config"]["mediaType"] == soci.INDEX_V1
    assert json.dumps(document, separators=(",", ":")).encode() == index
    assert document["layers"] == json.loads(soci.image_v2(blob(IMAGE), ztocs).index)["layers"]


def test_layers_without_a_ztoc_are_left_out(ztocs: dict[str, ZtocOf]) -> None:
    """An index lists the layers that have a zTOC only, in the image's order."""
    left = dict(list(ztocs.items())[1:])
    layers = json.loads(soci.index_v1(blob(IMAGE), OCI_MANIFEST, left))["layers"]
    order = [layer["digest"] for layer in json.loads(blob(IMAGE))["layers"] if layer["digest"] in left]
    assert [layer["annotations"]["com.amazon.soci.image-layer-digest"] for layer in layers] == order


def test_docker_types_become_oci_types(ztocs: dict[str, ZtocOf]) -> None:
    """A Docker image is annotated as an OCI image: Docker's manifest has no annotations."""
    document = json.loads(blob(IMAGE))
    document["mediaType"] = DOCKER_MANIFEST
    document["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    for layer in document["layers"]:
        layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    assert soci.image_v2(json.dumps(document).encode(), ztocs) == soci.image_v2(blob(IMAGE), ztocs)


def test_other_entries_stay_and_attestations_go(ztocs: dict[str, ZtocOf]) -> None:
    """Platforms that were not indexed stay as they are; what attests an original that was replaced goes."""
    image = soci.image_v2(blob(IMAGE), ztocs)
    arm = GoDescriptor(OCI_MANIFEST, str(Digest.of(b"arm")), 3, platform=GoPlatform("arm64", "linux", variant="v8"))
    about = {"vnd.docker.reference.digest": IMAGE}
    entries = [
        GoDescriptor(OCI_MANIFEST, IMAGE, len(blob(IMAGE)), platform=GoPlatform("amd64", "linux")),
        arm,
        GoDescriptor(OCI_MANIFEST, str(Digest.of(b"sbom")), 4, annotations=about),
    ]
    listed = json.loads(soci.list_v2(entries, {IMAGE: image}, {"made": "<here>"}))
    assert [each["digest"] for each in listed["manifests"]] == [
        str(Digest.of(image.manifest)),
        arm.digest,
        str(Digest.of(image.index)),
    ]
    assert listed["manifests"][1]["platform"] == {"architecture": "arm64", "os": "linux", "variant": "v8"}


def test_an_older_index_of_the_image_is_replaced(ztocs: dict[str, ZtocOf]) -> None:
    """An image that has a SOCI index already lists the new one only: clients pull every entry for their platform."""
    image = soci.image_v2(blob(IMAGE), ztocs)
    amd, arm = GoPlatform("amd64", "linux"), GoPlatform("arm64", "linux")
    entries = [
        GoDescriptor(OCI_MANIFEST, IMAGE, len(blob(IMAGE)), platform=amd),
        *(
            GoDescriptor(
                OCI_MANIFEST,
                str(Digest.of(of.encode())),
                3,
                annotations={"com.amazon.soci.image-manifest-digest": of},
                platform=platform,
                artifact_type=soci.INDEX_V2,
            )
            for of, platform in ((IMAGE, amd), (str(Digest.of(b"arm")), arm))
        ),
    ]
    listed = json.loads(soci.list_v2(entries, {IMAGE: image}, {}))["manifests"]
    assert [each["digest"] for each in listed] == [
        str(Digest.of(image.manifest)),
        entries[2].digest,
        str(Digest.of(image.index)),
    ]


def test_strings_are_escaped_as_go_does() -> None:
    """Angle brackets and ampersands are escaped: the client's own encoding must have the same digest."""
    listed = soci.list_v2([], {}, {"b": "<a&b>", "a": "first"})
    assert listed.endswith(b'"annotations":{"a":"first","b":"\\u003ca\\u0026b\\u003e"}}')


@pytest.mark.parametrize("body", [b"", b"[]", b'{"schemaVersion":2}', b"\xff"])
def test_what_is_no_image_is_refused(body: bytes) -> None:
    """Anything that is no image manifest is ManifestInvalid."""
    with pytest.raises(ManifestInvalid):
        soci.image_v2(body, {})
