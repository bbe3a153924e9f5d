"""Images as OCI layouts: a directory with index.json and blobs."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.setup.layers import Layer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
CREATED = "2024-01-01T00:00:00Z"
Json = dict[str, Any]


def write(directory: Path, layers: Sequence[Layer], command: Sequence[str]) -> None:
    """A layout with one image for linux/amd64; the layers' files are moved into it."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for layer in layers:
        layer.blob.rename(blobs / layer.digest.removeprefix("sha256:"))
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": CREATED,
        "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": list(command)},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": CREATED, "created_by": "registry-proxy tests"} for _ in layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": store(blobs, CONFIG, config),
        "layers": [
            {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
            | ({"annotations": dict(layer.annotations)} if layer.annotations else {})
            for layer in layers
        ],
    }
    described = store(blobs, MANIFEST, manifest) | {"annotations": {"org.opencontainers.image.ref.name": "latest"}}
    index = {"schemaVersion": 2, "manifests": [described]}
    (directory / "index.json").write_text(json.dumps(index), encoding="utf-8")
    (directory / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}), encoding="utf-8")


def store(blobs: Path, media_type: str, document: Mapping[str, Any]) -> Json:
    """Writes a JSON document as a blob; returns its descriptor."""
    text = json.dumps(document, sort_keys=True).encode()
    digest = hashlib.sha256(text).hexdigest()
    (blobs / digest).write_bytes(text)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(text)}


def manifest_digest(directory: Path) -> str:
    """The digest of the layout's one image."""
    index = json.loads((directory / "index.json").read_text(encoding="utf-8"))
    return str(index["manifests"][0]["digest"])


def manifest(directory: Path) -> Json:
    """The manifest of the layout's one image."""
    return document(directory, manifest_digest(directory))


def config(directory: Path) -> Json:
    """The config of the layout's one image."""
    return document(directory, manifest(directory)["config"]["digest"])


def document(directory: Path, digest: str) -> Json:
    """A blob that is JSON."""
    return dict(json.loads(blob(directory, digest).read_text(encoding="utf-8")))


def blob(directory: Path, digest: str) -> Path:
    """Where a blob lies."""
    return directory / "blobs" / "sha256" / digest.removeprefix("sha256:")


def digests(directory: Path) -> dict[str, int]:
    """Every digest that a client must end up with, and its size: manifest, config, layers."""
    top = manifest_digest(directory)
    parts = [manifest(directory)["config"], *manifest(directory)["layers"]]
    return {top: blob(directory, top).stat().st_size} | {part["digest"]: part["size"] for part in parts}


def link(source: Path, target: Path) -> Path:
    """The same blob under a second name, to be moved away."""
    os.link(source, target)
    return target
