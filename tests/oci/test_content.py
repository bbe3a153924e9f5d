"""Manifests: what guides the proxy is read, everything else is let be."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.errors import ManifestInvalid
from registry_proxy.oci.content import ACCEPT, DOCKER_LIST, OCI_INDEX, HintedBlob, blobs, parse_manifest
from registry_proxy.oci.digest import Digest

A, B = (Digest("sha256", 64 * letter) for letter in "ab")


def test_an_image_manifest_names_its_blobs() -> None:
    """Config and layers are hinted at in the manifest's order; unknown fields are let be."""
    body = msgspec.json.encode(
        {
            "schemaVersion": 2,
            "config": {"digest": str(A), "size": 3, "mediaType": "x", "data": "e30="},
            "layers": [{"digest": str(B), "size": 5, "urls": ["https://elsewhere"]}],
            "somethingNew": {"deep": [1]},
        }
    )
    manifest = parse_manifest(body)
    assert not manifest.is_index
    assert list(blobs(manifest)) == [HintedBlob(A, 3), HintedBlob(B, 5)]


def test_malformed_descriptors_are_no_hints() -> None:
    """A digest of an unknown algorithm or a negative size is left out; the others stay."""
    body = msgspec.json.encode(
        {"layers": [{"digest": "md5:1", "size": 1}, {"digest": str(A), "size": -1}, {"digest": str(B), "size": 3}]}
    )
    assert list(blobs(parse_manifest(body))) == [HintedBlob(B, 3)]


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_an_index_is_known_by_its_manifests(media_type: str) -> None:
    """An index lists manifests with their platforms, even an empty one."""
    entry = {"digest": str(A), "size": 3, "platform": {"architecture": "arm64", "os": "linux", "os.version": "1"}}
    index = parse_manifest(msgspec.json.encode({"mediaType": media_type, "manifests": [entry]}))
    assert index.is_index
    assert index.manifests is not None
    assert index.manifests[0].platform is not None
    assert index.manifests[0].platform.architecture == "arm64"
    assert parse_manifest(b'{"manifests": []}').is_index
    assert not list(blobs(index))


@pytest.mark.parametrize(
    "body", [b"", b"<html>log in</html>", b"[]", b'{"layers": 1}', b'{"config": {"size": 1}}', b"\xff"]
)
def test_what_is_no_manifest(body: bytes) -> None:
    """HTML, other JSON and broken text are refused."""
    with pytest.raises(ManifestInvalid):
        parse_manifest(body)


def test_what_cannot_be_is_no_hint() -> None:
    """A size that no file can have, or none where the digest is not that of nothing, says nothing about a blob."""
    some, none = str(Digest.of(b"some")), str(Digest.of(b""))
    layers = [(some, -1), (some, 1 << 63), (some, 0), (none, 0), ("sha256:x", 4), (some, 4)]
    body = {"layers": [{"digest": digest, "size": size} for digest, size in layers]}
    named = [(str(blob.digest), blob.size) for blob in blobs(parse_manifest(msgspec.json.encode(body)))]
    assert named == [(none, 0), (some, 4)]


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ).map(msgspec.json.encode)
)
def test_any_body_is_a_manifest_or_refused(body: bytes) -> None:
    """Nothing but ManifestInvalid is ever raised."""
    try:
        list(blobs(parse_manifest(body)))
    except ManifestInvalid:
        return


def test_everything_is_accepted() -> None:
    """One answer of the upstream is right for every client, so every kind is asked for."""
    assert "*/*" in ACCEPT
    assert OCI_INDEX in ACCEPT
    assert DOCKER_LIST in ACCEPT
