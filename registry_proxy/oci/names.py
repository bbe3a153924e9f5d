"""Repository names, tags, references and source hosts (distribution-spec, "Pulling manifests")."""

import re
from dataclasses import dataclass
from typing import NewType

from registry_proxy.errors import BadRequest, ManifestUnknown, NameInvalid
from registry_proxy.oci.digest import Digest

Repository = NewType("Repository", str)
Tag = NewType("Tag", str)
SourceHost = NewType("SourceHost", str)
Reference = Tag | Digest

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")
_HOST_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_SOURCE_HOST = re.compile(rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?\Z")

MAX_REPOSITORY = 255
"""Characters in a repository name: what distribution accepts; the spec warns that clients stop at 255 with the host."""


def repository(text: str) -> Repository:
    """A checked repository name; raises NameInvalid."""
    if len(text) > MAX_REPOSITORY or not _REPOSITORY.match(text):
        raise NameInvalid(f"not a repository name: {text[:160]!r}")
    return Repository(text)


def source_host(text: str) -> SourceHost:
    """A checked source host, ``host`` or ``host:port``, in lower case; raises NameInvalid."""
    if len(text) > MAX_REPOSITORY or not _SOURCE_HOST.match(text):
        raise NameInvalid(f"not a registry host: {text[:160]!r}")
    return SourceHost(text.lower())


def reference(text: str) -> Reference:
    """A digest if the text has a colon, else a tag.

    Raises DigestInvalid for a malformed digest and ManifestUnknown for what can be no tag: the spec wants 404 or 400.
    """
    if ":" in text:
        return Digest.parse(text)
    if not _TAG.match(text):
        raise ManifestUnknown(f"no tag can be named {text[:160]!r}")
    return Tag(text)


@dataclass(frozen=True, slots=True)
class ImageName:
    """An image as a person writes it: ``host/repository[:tag][@digest]``."""

    host: SourceHost
    repository: Repository
    reference: Reference

    @classmethod
    def parse(cls, text: str) -> "ImageName":
        """Parse a name the way docker and podman do: no host means docker.io, one component there means ``library/``.

        Raises BadRequest (NameInvalid, DigestInvalid) if it cannot be one.
        """
        name, at, digest = text.partition("@")
        first, slash, rest = name.partition("/")
        if not slash or not ("." in first or ":" in first or first == "localhost"):
            first, rest = "docker.io", name
        last = rest.rpartition("/")[2]
        tag = last.partition(":")[2]
        path = rest[: len(rest) - len(tag) - 1] if tag else rest
        if first == "docker.io" and "/" not in path:
            path = f"library/{path}"
        ref = Digest.parse(digest) if at else reference(tag or "latest")
        if not path:
            raise BadRequest(f"not an image name: {text[:160]!r}")
        return cls(source_host(first), repository(path), ref)

    def __str__(self) -> str:
        separator = "@" if isinstance(self.reference, Digest) else ":"
        return f"{self.host}/{self.repository}{separator}{self.reference}"
