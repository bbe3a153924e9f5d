"""Copying an image from an instance to where others have it: an OCI layout, or a registry (distribution-spec, "Push")."""

import contextlib
import http.client
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode, urljoin, urlsplit

import msgspec

from registry_proxy.cli.http import Instance
from registry_proxy.cli.platforms import Wanted
from registry_proxy.cli.warming import Watcher, image_path, manifests_of
from registry_proxy.errors import Denied, RegistryProxyError, UpstreamFailed
from registry_proxy.net.accounts import Credential
from registry_proxy.oci.content import HintedBlob, blobs
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import ImageName
from registry_proxy.plan.challenges import parse_challenges

_TIMEOUT: Final = 120.0
_ANSWER: Final = 1 << 20
_REF_NAME: Final = "org.opencontainers.image.ref.name"

Pour = Callable[[Callable[[bytes], object]], object]
"""Hands a blob to a receiver, piece by piece."""


class CopyFailed(RegistryProxyError):
    """The target does not take the image; the text says what it said."""


class Target(Protocol):
    """Where an image goes."""

    def has(self, blob: HintedBlob) -> bool:
        """True if the blob is there already."""

    def put_blob(self, blob: HintedBlob, pour: Pour) -> None:
        """Take a blob; raises CopyFailed."""

    def put_manifest(self, body: bytes, media_type: str, tag: str | None) -> None:
        """Take a manifest whose parts are all there; raises CopyFailed."""


def copy_image(instance: Instance, image: ImageName, target: Target, watcher: Watcher) -> int:
    """Copy an image of all its platforms: blobs first, then manifests, what names others last. The bytes of blobs copied."""
    documents = list(manifests_of(instance, image, [Wanted()]))
    named = {str(blob.digest): blob for _, manifest in documents for blob in blobs(manifest)}
    new = [blob for blob in named.values() if not target.has(blob)]
    watcher.expect(str(image), sum(blob.size for blob in new))
    for blob in new:
        target.put_blob(blob, _pour(instance, image, blob, watcher))
    for body, manifest in reversed(documents):
        tag = str(image.reference) if body is documents[0][0] else None
        target.put_manifest(body, manifest.media_type, tag)
    return sum(blob.size for blob in new)


def _pour(instance: Instance, image: ImageName, blob: HintedBlob, watcher: Watcher) -> Pour:
    path = image_path(image, "blobs", str(blob.digest))

    def pour(receive: Callable[[bytes], object]) -> None:
        def both(piece: bytes) -> None:
            receive(piece)
            watcher.advance(str(image), len(piece))

        if (came := instance.drain(path, {}, both, blob.size)) != blob.size:
            raise CopyFailed(f"{blob.digest} has {came} bytes where the manifest says {blob.size}")

    return pour


class Layout:
    """An OCI image layout in a directory, made if need be; other images in it stay (image-spec "image-layout.md")."""

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', encoding="utf-8")

    def has(self, blob: HintedBlob) -> bool:
        """See ``Target``."""
        file = self._file(blob.digest)
        return file.is_file() and file.stat().st_size == blob.size

    def put_blob(self, blob: HintedBlob, pour: Pour) -> None:
        """See ``Target``; checked by its digest as it is written."""
        with self._appearing(self._file(blob.digest)) as write:
            hasher = blob.digest.hasher()

            def receive(piece: bytes) -> None:
                hasher.update(piece)
                write(piece)

            pour(receive)
            if hasher.hexdigest() != blob.digest.hex:
                raise CopyFailed(f"what came is not {blob.digest}")

    def put_manifest(self, body: bytes, media_type: str, tag: str | None) -> None:
        """See ``Target``."""
        digest = Digest.of(body)
        with self._appearing(self._file(digest)) as write:
            write(body)
        if tag is not None:
            place = {"mediaType": media_type, "digest": str(digest), "size": len(body)}
            self._list(place | {"annotations": {_REF_NAME: tag}})

    def _list(self, described: dict[str, Any]) -> None:
        file = self._root / "index.json"
        found = json.loads(file.read_bytes())["manifests"] if file.is_file() else []
        tag = described["annotations"][_REF_NAME]
        others = [each for each in found if each.get("annotations", {}).get(_REF_NAME) != tag]
        with self._appearing(file) as write:
            write(msgspec.json.encode({"schemaVersion": 2, "manifests": [*others, described]}))

    def _file(self, digest: Digest) -> Path:
        return self._root / "blobs" / digest.algorithm / digest.hex

    @contextlib.contextmanager
    def _appearing(self, path: Path) -> Iterator[Callable[[bytes], object]]:
        """A file that is there whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
            try:
                yield file.write
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).chmod(0o644)
                Path(file.name).rename(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise


class RemoteRegistry:
    """A repository of a registry at ``url``. ``credential``: for its token server, or for itself."""

    def __init__(self, url: str, repository: str, credential: Credential | None) -> None:
        self._url = url
        self._repository = repository
        self._credential = credential
        self._authorization: str | None = None

    def has(self, blob: HintedBlob) -> bool:
        """See ``Target``."""
        status, _, _ = self._ask("HEAD", self._path(f"blobs/{blob.digest}"))
        return status == 200

    def put_blob(self, blob: HintedBlob, pour: Pour) -> None:
        """See ``Target``: one upload in one piece."""
        status, headers, said = self._ask("POST", self._path("blobs/uploads/"), {"Content-Length": "0"})
        if status != 202 or "location" not in headers:
            raise CopyFailed(f"{self._url} takes no upload to {self._repository}: {status} {said[:300]!r}")
        place = urljoin(self._url, headers["location"])
        place += ("&" if urlsplit(place).query else "?") + urlencode({"digest": str(blob.digest)})
        given = {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
        status, _, said = self._ask("PUT", place, given, pour)
        if status != 201:
            raise CopyFailed(f"{self._url} does not take {blob.digest}: {status} {said[:300]!r}")

    def put_manifest(self, body: bytes, media_type: str, tag: str | None) -> None:
        """See ``Target``."""
        path = self._path(f"manifests/{tag or Digest.of(body)}")
        given = {"Content-Length": str(len(body)), "Content-Type": media_type}
        status, _, said = self._ask("PUT", path, given, lambda receive: receive(body))
        if status != 201:
            raise CopyFailed(f"{self._url} does not take the manifest: {status} {said[:300]!r}")

    def log_in(self) -> None:
        """Find out what the registry wants to see, and get it; raises Denied."""
        status, headers, _ = self._ask("GET", f"{self._url}/v2/")
        if status != 401:
            return
        for challenge in parse_challenges([headers.get("www-authenticate", "")]):
            if challenge.scheme == "basic" and self._credential is not None:
                self._authorization = self._credential.basic
                return
            if challenge.scheme == "bearer":
                self._authorization = f"Bearer {self._token(challenge.parameters)}"
                return
        raise Denied(f"{self._url} wants credentials, and docker's configuration has none for it")

    def _token(self, wanted: Mapping[str, str]) -> str:
        """A token to pull and push (distribution's token spec)."""
        asked = {"service": wanted.get("service", ""), "scope": f"repository:{self._repository}:pull,push"}
        realm = wanted.get("realm", "")
        if urlsplit(realm).scheme not in ("http", "https"):
            raise Denied(f"{self._url} names no token server")
        headers = {} if self._credential is None else {"Authorization": self._credential.basic}
        status, _, body = self._ask("GET", f"{realm}?{urlencode(asked)}", headers)
        if status != 200:
            raise Denied(f"the token server of {self._url} refuses: {status}")
        document = json.loads(body)
        return str(document.get("token") or document.get("access_token") or "")

    def _path(self, rest: str) -> str:
        return f"{self._url}/v2/{quote(self._repository)}/{rest}"

    def _ask(
        self, method: str, url: str, headers: Mapping[str, str] = {}, pour: Pour | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One exchange; the registry's authorization goes to the registry's own host only."""
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=_TIMEOUT)
        own = {"Authorization": self._authorization} if self._authorization and self._is_ours(url) else {}
        try:
            connection.putrequest(method, parts.path + (f"?{parts.query}" if parts.query else ""))
            for name, value in {**own, **headers}.items():
                connection.putheader(name, value)
            connection.endheaders()
            if pour is not None:
                pour(connection.send)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read(_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise UpstreamFailed(f"{parts.scheme}://{parts.netloc}: {error or type(error).__name__}") from error
        finally:
            connection.close()

    def _is_ours(self, url: str) -> bool:
        return urlsplit(url)[:2] == urlsplit(self._url)[:2]
