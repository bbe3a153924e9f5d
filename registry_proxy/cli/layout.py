"""An OCI image layout in a directory, as a target of copies (image-spec, "image-layout.md")."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from registry_proxy.cli.copying import CopyFailed, Pour
from registry_proxy.oci.content import HintedBlob
from registry_proxy.oci.digest import Digest

_REF_NAME: Final = "org.opencontainers.image.ref.name"


class _Index(msgspec.Struct):
    manifests: list[dict[str, Any]]


class Layout:
    """The layout at ``root``, made if need be; images of other tags stay in it. Raises CopyFailed if that cannot be one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        with self._writing():
            root.mkdir(parents=True, exist_ok=True)
            if not (root / "oci-layout").is_file() and any(root.iterdir()):
                raise CopyFailed(f"{root} is neither empty nor an OCI layout")
            (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', encoding="utf-8")
        self._listed()

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
            self._list(tag, place | {"annotations": {_REF_NAME: tag}})

    def _list(self, tag: str, place: dict[str, Any]) -> None:
        others = [each for each in self._listed() if each.get("annotations", {}).get(_REF_NAME) != tag]
        with self._appearing(self._root / "index.json") as write:
            write(msgspec.json.encode({"schemaVersion": 2, "manifests": [*others, place]}))

    def _listed(self) -> list[dict[str, Any]]:
        """What ``index.json`` names."""
        file = self._root / "index.json"
        try:
            return msgspec.json.decode(file.read_bytes(), type=_Index).manifests
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            raise CopyFailed(f"{file} is no index of an OCI layout: {error}") from error

    def _file(self, digest: Digest) -> Path:
        return self._root / "blobs" / digest.algorithm / digest.hex

    @contextlib.contextmanager
    def _appearing(self, path: Path) -> Iterator[Callable[[bytes], object]]:
        """A file that is there whole or not at all."""
        with self._writing():
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

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CopyFailed(f"{self._root} cannot be written: {error.strerror or error}") from error
