"""Manifests, configs and indexes of converted images."""

import json
from typing import Any

import pytest

from registry_proxy.errors import ManifestInvalid
from registry_proxy.lazy.convert.image import SOURCE_DIGEST, is_layer, rewrite_image, rewrite_index
from registry_proxy.lazy.convert.values import ConvertedLayer
from registry_proxy.oci.digest import Digest
from tests.lazy.layers import sha256

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
TOC = "containerd.io/snapshot/stargz/toc.digest"


def copy(name: str) -> ConvertedLayer:
    made = [Digest.of(f"{name}{part}".encode()) for part in range(3)]
    return ConvertedLayer(made[0], 1000, made[1], made[2], 3000, 7)


def image(docker: bool = False, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A manifest of two layers, and its config."""
    layer = f"{DOCKER}image.rootfs.diff.tar.gzip" if docker else f"{OCI}layer.v1.tar+zstd"
    config = {
        "created": "x",
        "rootfs": {"type": "layers", "diff_ids": ["sha256:a", "sha256:b"]},
        "odd": {"kept": [1.5]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{DOCKER}distribution.manifest.v2+json" if docker else f"{OCI}manifest.v1+json",
        "config": {
            "mediaType": f"{DOCKER}container.image.v1+json" if docker else f"{OCI}config.v1+json",
            "digest": sha256(json.dumps(config).encode()), "size": 3, "data": "b2xk", "annotations": {"c": "d"},
        },
        "layers": [
            {"mediaType": layer, "digest": "sha256:1", "size": 10, "annotations": {
                "mine": "yes", "io.github.containers.zstd-chunked.manifest-checksum": "stale"}},
            {"mediaType": layer, "digest": "sha256:2", "size": 20, "urls": ["https://elsewhere/"]},
        ],
        **more,
    }  # fmt: skip
    return manifest, config


def rewritten(manifest: Any, config: Any, layers: list[ConvertedLayer | None]) -> tuple[dict[str, Any], dict[str, Any]]:
    done = rewrite_image(json.dumps(manifest).encode(), json.dumps(config).encode(), layers)
    new = json.loads(done.manifest)
    assert (new["config"]["digest"], new["config"]["size"]) == (sha256(done.config), len(done.config))
    return new, json.loads(done.config)


@pytest.mark.parametrize("docker", [True, False])
def test_layers_take_the_place_of_layers(docker: bool) -> None:
    """Digest, size and media type are the copy's, the diff_id in the config too; all is OCI's, whatever it was."""
    manifest, config = image(docker, annotations={"a": "b"})
    new, settings = rewritten(manifest, config, [copy("x"), copy("y")])
    assert (new["schemaVersion"], new["mediaType"]) == (2, f"{OCI}manifest.v1+json")
    assert new["config"].keys() == {"mediaType", "digest", "size", "annotations"}
    assert new["config"]["mediaType"] == f"{OCI}config.v1+json"
    assert new["layers"][0] == {
        "mediaType": f"{OCI}layer.v1.tar+gzip", "digest": str(copy("x").digest), "size": 1000,
        "annotations": {
            "mine": "yes", TOC: str(copy("x").toc_digest), "io.containers.estargz.uncompressed-size": "3000",
            SOURCE_DIGEST: "sha256:1",
        },
    }  # fmt: skip
    assert settings == config | {"rootfs": {"type": "layers", "diff_ids": [str(copy(n).diff_id) for n in "xy"]}}
    assert new["annotations"] == {"a": "b", SOURCE_DIGEST: sha256(json.dumps(manifest).encode())}


def test_a_layer_may_stay() -> None:
    """What could not be converted is the original, under OCI's name for its type."""
    manifest, config = image(docker=True)
    new, settings = rewritten(manifest, config, [copy("x"), None])
    assert new["layers"][1] == manifest["layers"][1] | {"mediaType": f"{OCI}layer.v1.tar+gzip"}
    assert settings["rootfs"]["diff_ids"] == [str(copy("x").diff_id), "sha256:b"]


def test_a_copy_refers_to_nothing() -> None:
    """A subject would list the copy as a statement about it."""
    manifest, config = image(subject={"digest": "sha256:s", "size": 1, "mediaType": "m"}, odd="kept")
    new, _ = rewritten(manifest, config, [copy("x"), None])
    assert "subject" not in new
    assert new["odd"] == "kept"


@pytest.mark.parametrize(
    "break_", [
        lambda manifest, _: manifest["config"].update(mediaType="application/vnd.oci.empty.v1+json"),
        lambda manifest, _: manifest.pop("config"),
        lambda manifest, _: manifest.pop("layers"),
        lambda manifest, _: manifest.update(annotations=[]),
        lambda manifest, _: manifest["layers"][0].update(annotations={"a": 1}),
        lambda _, config: config["rootfs"]["diff_ids"].pop(),
        lambda _, config: config.pop("rootfs"),
    ],
)  # fmt: skip
def test_what_is_no_image(break_: Any) -> None:
    """Artifacts, and configs that do not fit their manifest, are told."""
    manifest, config = image()
    break_(manifest, config)
    with pytest.raises(ManifestInvalid):
        rewritten(manifest, config, [copy("x"), None])


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"null", b'{"manifests": [1]}', b"{}"])
def test_what_is_no_index(body: bytes) -> None:
    """Anything may come from a registry."""
    with pytest.raises(ManifestInvalid):
        rewrite_index(body, {})


def test_an_index_keeps_its_platforms() -> None:
    """Converted manifests take the place of their originals, others stay, attestations about originals go."""
    attested = {"vnd.docker.reference.type": "attestation-manifest"}
    entries = [
        {"mediaType": f"{DOCKER}distribution.manifest.v2+json", "digest": "sha256:1", "size": 5, "platform": {"os": "linux"},
         "data": "b2xk"},
        {"mediaType": f"{OCI}manifest.v1+json", "digest": "sha256:2", "size": 6, "annotations": {"a": "b"}},
        {"mediaType": f"{OCI}manifest.v1+json", "digest": "sha256:3", "size": 7,
         "annotations": attested | {"vnd.docker.reference.digest": "sha256:1"}},
        {"mediaType": f"{OCI}manifest.v1+json", "digest": "sha256:4", "size": 8,
         "annotations": attested | {"vnd.docker.reference.digest": "sha256:2"}},
    ]  # fmt: skip
    index = json.dumps(
        {"schemaVersion": 2, "mediaType": f"{DOCKER}distribution.manifest.list.v2+json", "manifests": entries}
    ).encode()
    new = json.loads(rewrite_index(index, {"sha256:1": b"{}"}))
    assert new["mediaType"] == f"{OCI}index.v1+json"
    assert new["annotations"] == {SOURCE_DIGEST: sha256(index)}
    assert new["manifests"] == [
        {
            "mediaType": f"{OCI}manifest.v1+json", "digest": sha256(b"{}"), "size": 2, "platform": {"os": "linux"},
            "annotations": {SOURCE_DIGEST: "sha256:1"},
        },
        entries[1],
        entries[3],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("media_type", "is_"),
    [
        (f"{OCI}layer.v1.tar", True),
        (f"{OCI}layer.v1.tar+gzip", True),
        (f"{OCI}layer.v1.tar+zstd", True),
        (f"{DOCKER}image.rootfs.diff.tar.gzip", True),
        (f"{DOCKER}image.rootfs.foreign.diff.tar.gzip", False),
        (f"{OCI}layer.nondistributable.v1.tar+gzip", False),
        (f"{OCI}layer.v1.tar+gzip+encrypted", False),
        ("application/vnd.in-toto+json", False),
    ],
)
def test_which_blobs_are_layers(media_type: str, is_: bool) -> None:
    """Only tars that may be copied are converted."""
    assert is_layer(media_type) is is_


def test_an_index_in_an_index() -> None:
    """What takes the place of an index is described as one."""
    inner = json.dumps({"schemaVersion": 2, "mediaType": f"{OCI}index.v1+json", "manifests": []}).encode()
    outer = json.dumps({"manifests": [{"mediaType": f"{OCI}index.v1+json", "digest": "sha256:1", "size": 1}]}).encode()
    [entry] = json.loads(rewrite_index(outer, {"sha256:1": inner}))["manifests"]
    assert (entry["mediaType"], entry["size"]) == (f"{OCI}index.v1+json", len(inner))
