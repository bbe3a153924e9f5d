"""A real docker-registry that wants tokens, and small images in it: some for everybody, some for single users.

with guarded(work) as site:
    site.push("team/secret", seed=1)
    site.tokens.rights.allow("alice", "team/secret")
"""

import contextlib
import hashlib
import json
import random
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.interop.harness.process import Failure
from tests.interop.harness.registries import basic, htpasswd, registry, token
from tests.interop.harness.rights import Rights
from tests.interop.harness.tokens import TokenServer, token_server
from tests.setup.layout import CONFIG, MANIFEST

OWNER = "owner"  # the user who fills the registry
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
SIGNATURE = "application/vnd.example.signature"
ACCEPT = f"{MANIFEST}, {INDEX}"
LAYER_SIZE = (3 << 15) + 7  # bytes; two chunks of 64 KiB, the last one short


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; of a header that came twice, the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """An image as it lies in a repository, tagged `latest`, with one referrer."""

    repository: str
    manifest: bytes
    config: bytes
    layer: bytes
    referrer: bytes

    @property
    def digest(self) -> str:
        return sha256(self.manifest)

    @property
    def layer_digest(self) -> str:
        return sha256(self.layer)


@dataclass(frozen=True, slots=True)
class Filled:
    """A running registry that its owner can fill, at host:port. ``owner``: what the owner shows for a repository."""

    address: str
    owner: Callable[[str], str]

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def push(self, repository: str, seed: int) -> Stored:
        """Puts a small image of noise into a repository; other seeds share no blob with it."""
        layer = random.Random(seed).randbytes(LAYER_SIZE)
        config = json.dumps({"architecture": "amd64", "os": "linux", "seed": seed}).encode()
        manifest = document(MANIFEST, config=described(CONFIG, config), layers=[described(LAYER, layer)])
        subject = described(MANIFEST, manifest)
        referrer = document(MANIFEST, config=described(SIGNATURE, config), layers=[], subject=subject)
        index = document(INDEX, manifests=[described(MANIFEST, referrer)])
        for blob in (layer, config):
            self.upload(repository, blob)
        self.put_manifest(repository, sha256(referrer), referrer)
        self.put_manifest(repository, "latest", manifest)
        self.put_manifest(
            repository, sha256(manifest).replace(":", "-"), index, INDEX
        )  # docker-registry has no referrers API
        return Stored(repository, manifest, config, layer, referrer)

    def claim(self, repository: str, secret: Stored) -> bytes:
        """Puts an image into a repository that names another one's layer, and returns its manifest.

        docker-registry asks for a blob that is named, unless the descriptor says where else it may be had.
        """
        elsewhere = described(LAYER, secret.layer) | {"urls": ["https://images.example/layer"]}
        manifest = document(MANIFEST, config=described(CONFIG, b"{}"), layers=[elsewhere])
        self.upload(repository, b"{}")
        self.put_manifest(repository, "latest", manifest)
        return manifest

    def upload(self, repository: str, blob: bytes) -> None:
        """Puts a blob into a repository."""
        begun = self.owned("POST", f"/v2/{repository}/blobs/uploads/", repository)
        location = begun.headers["Location"]
        sign = "&" if "?" in location else "?"
        self.owned("PUT", f"{location}{sign}digest={sha256(blob)}", repository, blob, "application/octet-stream")

    def put_manifest(self, repository: str, reference: str, text: bytes, media_type: str = MANIFEST) -> None:
        """Puts a manifest into a repository."""
        self.owned("PUT", f"/v2/{repository}/manifests/{reference}", repository, text, media_type)

    def owned(self, method: str, path: str, repository: str, body: bytes = b"", media_type: str = "") -> Answer:
        """An exchange as the owner of everything; raises `Failure` if it is refused."""
        headers = {"Authorization": self.owner(repository)} | ({"Content-Type": media_type} if media_type else {})
        url = path if path.startswith("http") else f"{self.url}{path}"
        answer = exchange(method, url, headers, body)
        if answer.status >= 300:
            raise Failure(f"{method} {url}: {answer.status} {answer.body[:300]!r}")
        return answer


@dataclass(frozen=True, slots=True)
class Site(Filled):
    """One that wants tokens, and its token server."""

    tokens: TokenServer


@contextlib.contextmanager
def behind_passwords(directory: Path, user: str, password: str) -> Iterator[Filled]:
    """A registry that wants this name and password for everything, empty."""
    with registry(directory / "guarded", directory, htpasswd(directory, user, password)) as address:
        yield Filled(address, lambda _: basic(user, password))


@contextlib.contextmanager
def guarded(directory: Path, rights: Rights | None = None) -> Iterator[Site]:
    """A registry with tokens, empty; `rights` are added to those of its owner."""
    rights = rights or Rights()
    rights.allow(OWNER, "*", "pull", "push")
    with (
        token_server(directory, rights) as tokens,
        registry(directory / "guarded", directory, token(directory, tokens.realm)) as address,
    ):
        yield Site(address, lambda name: f"Bearer {tokens.token(OWNER, f'repository:{name}:pull,push')}", tokens)


def exchange(method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
    """One request, no redirects, whatever the answer is; manifests are accepted."""
    request = urllib.request.Request(url, body or None, {"Accept": ACCEPT, **(headers or {})}, method=method)
    try:
        with _opener.open(request, timeout=30) as response:
            return Answer(response.status, dict(response.headers), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read())


def described(media_type: str, content: bytes) -> dict[str, Any]:
    """A descriptor."""
    return {"mediaType": media_type, "digest": sha256(content), "size": len(content)}


def document(media_type: str, **fields: Any) -> bytes:
    """A manifest or index."""
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, **fields}).encode()


def sha256(content: bytes) -> str:
    """A digest as registries write it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A redirect is an answer."""


_opener = urllib.request.build_opener(_NoRedirects)
