"""Upstreams: docker-registry over one storage, with or without accounts and tokens, and filled once."""

import base64
import contextlib
import hashlib
import json
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.interop.harness.process import Process, answers, call, free_port, isolated
from tests.setup import images
from tests.setup import layout as oci

USER, PASSWORD = "reader", "open-sesame"  # of the registries that ask for them


@dataclass(frozen=True, slots=True)
class Image:
    """One of the test images as it lies in the registry: repository, layout, and every digest with its size."""

    name: str
    layout: Path

    @property
    def repository(self) -> str:
        return f"library/{self.name}"

    @property
    def digests(self) -> dict[str, int]:
        return oci.digests(self.layout)

    @property
    def manifest_digest(self) -> str:
        return oci.manifest_digest(self.layout)

    @property
    def diff_ids(self) -> list[str]:
        return list(oci.config(self.layout)["rootfs"]["diff_ids"])

    @property
    def layer_digests(self) -> set[str]:
        return {layer["digest"] for layer in oci.manifest(self.layout)["layers"]}

    @property
    def size(self) -> int:
        return sum(self.digests.values())


@contextlib.contextmanager
def registry(storage: Path, directory: Path, auth: Mapping[str, Any] | None = None) -> Iterator[str]:
    """A docker-registry on the storage; yields its host:port."""
    address = f"127.0.0.1:{free_port()}"
    config = {
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {
            "filesystem": {"rootdirectory": str(storage)},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": address},
        "validation": {
            "manifests": {"urls": {"allow": ["^https://"]}}
        },  # a manifest may name layers that are elsewhere
    } | ({"auth": dict(auth)} if auth else {})
    file = directory / f"registry-{address.rpartition(':')[2]}.json"
    file.write_text(json.dumps(config), encoding="utf-8")  # YAML reads JSON
    with Process(file.stem, ["docker-registry", "serve", file], directory) as process:
        process.ready_when(lambda: answers(f"http://{address}/v2/", 200, 401))
        yield address


def fill(storage: Path, directory: Path, names: Sequence[str] = images.TESTED) -> dict[str, Image]:
    """Pushes images (`tests.setup.images` has the names) into a storage, each as library/NAME:latest."""
    pushed = {name: Image(name, images.layout(name)) for name in names}
    with registry(storage, directory) as address:
        for image in pushed.values():
            call(*isolated("skopeo", "copy", "--insecure-policy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
                           f"oci:{image.layout}:latest", f"docker://{address}/{image.repository}:latest"))  # fmt: skip
    return pushed


def push_blob(address: str, repository: str, data: bytes) -> str:
    """Upload one blob; its digest."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    started = urllib.request.Request(f"http://{address}/v2/{repository}/blobs/uploads/", data=b"", method="POST")
    with urllib.request.urlopen(started, timeout=30) as answer:
        location = answer.headers["Location"]
    joint = "&" if "?" in location else "?"
    headers = {"Content-Type": "application/octet-stream"}
    put = urllib.request.Request(f"{location}{joint}digest={digest}", data=data, method="PUT", headers=headers)
    with urllib.request.urlopen(put, timeout=300):
        return digest


def accounts(directory: Path, user: str = USER, password: str = PASSWORD) -> Path:
    """An htpasswd file with one account."""
    file = directory / "htpasswd"
    file.write_text(call("htpasswd", "-Bbn", user, password), encoding="utf-8")
    return file


def htpasswd(directory: Path, user: str = USER, password: str = PASSWORD) -> dict[str, Any]:
    """The auth section of a registry that wants Basic credentials."""
    return {"htpasswd": {"realm": "tests", "path": str(accounts(directory, user, password))}}


def token(directory: Path, realm: str) -> dict[str, Any]:
    """The auth section of a registry that wants tokens from `realm`, whose certificate is `cert.pem`."""
    return {
        "token": {"realm": realm, "service": "tests", "issuer": "tests", "rootcertbundle": str(directory / "cert.pem")}
    }


def basic(user: str, password: str) -> str:
    """The value of an Authorization header."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
