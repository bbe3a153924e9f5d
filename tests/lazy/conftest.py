"""The layers and zTOCs of the reference tool."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

LAYOUT = Path(__file__).parents[3] / "shared" / "fixtures" / "soci"


@dataclass(frozen=True)
class Reference:
    """A layer, and the zTOC that the reference tool made of it."""

    layer: bytes
    ztoc: bytes


def _blob(digest: str) -> bytes:
    return (LAYOUT / "blobs" / digest.replace(":", "/")).read_bytes()


@pytest.fixture(scope="session")
def references() -> dict[str, Reference]:
    """By the first characters of the layer's digest; missing fixtures are a failure, not a skip."""
    [root] = json.loads((LAYOUT / "index.json").read_bytes())["manifests"]
    found = {}
    for entry in json.loads(_blob(root["digest"]))["manifests"]:
        for layer in json.loads(_blob(entry["digest"]))["layers"]:
            if source := layer.get("annotations", {}).get("com.amazon.soci.image-layer-digest"):
                found[source[7:15]] = Reference(_blob(source), _blob(layer["digest"]))
    assert len(found) == 4
    return found
