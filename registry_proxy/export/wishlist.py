"""Wish lists of images in the form of CVMFS's DUCC (CernVM-FS documentation, "Wishlist").

```yaml
version: 1
user: unpacker
cvmfs_repo: images.example.org
output_format: https://registry.example/thin/$(image)
input:
  - https://registry.example/team/analysis:v3
  - https://registry.hub.docker.com/library/alpine:3.*
```
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import urlsplit

import msgspec
import yaml

from registry_proxy.errors import BadRequest, ConfigInvalid, ManifestUnknown
from registry_proxy.oci.names import ImageName, Repository, SourceHost, repository, source_host
from registry_proxy.plan.routing import HUB

_HUB_NAMES: Final = frozenset({"docker.io", "registry.hub.docker.com", "index.docker.io", "registry-1.docker.io"})
"""What wish lists call Docker Hub."""

_MOST_BRACKETS: Final = 1000
"""PyYAML needs a time that grows with the square of how deep they are nested; a wish list needs none."""


class WishList(msgspec.Struct, frozen=True):
    """The file. Only ``input`` matters here: where images are published to is said on the command line."""

    version: int
    input: tuple[str, ...]
    user: str = ""
    cvmfs_repo: str = ""
    output_format: str = ""


@dataclass(frozen=True, slots=True)
class Pattern:
    """All tags of a repository that match (``*`` stands for any characters)."""

    host: SourceHost
    repository: Repository
    tags: str

    def matches(self, tag: str) -> bool:
        """True for a tag that is wished for."""
        return fnmatchcase(tag, self.tags)

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}:{self.tags}"


Wish = ImageName | Pattern


def parse(text: str) -> tuple[Wish, ...]:
    """The wishes of a list, in its order; raises ConfigInvalid."""
    if text.count("[") + text.count("{") > _MOST_BRACKETS:
        raise ConfigInvalid("not a wish list: it is full of brackets")
    try:
        tree = yaml.load(text, yaml.BaseLoader)  # noqa: S506 (makes texts, lists and mappings, and nothing else)
        found = msgspec.convert(tree, WishList, strict=False)
    except yaml.YAMLError as error:
        raise ConfigInvalid(f"not YAML: {error}") from None
    except RecursionError:
        raise ConfigInvalid("not a wish list: nested too deeply") from None
    except msgspec.ValidationError as error:
        raise ConfigInvalid(f"not a wish list: {error}") from None
    if found.version != 1:
        raise ConfigInvalid(f"version {found.version} of wish lists is not known")
    return tuple(_wish(entry) for entry in found.input)


def _wish(entry: str) -> Wish:
    """An image by its URL, ``https://HOST/REPOSITORY:TAG``; raises ConfigInvalid."""
    try:
        url = urlsplit(entry)
    except ValueError:
        raise ConfigInvalid(f"{entry[:160]}: not a URL") from None
    if url.scheme not in ("http", "https") or not url.netloc or "@" in url.netloc or url.query or url.fragment:
        raise ConfigInvalid(f"{entry[:160]}: not the URL of an image")
    host = "docker.io" if url.netloc.lower() in _HUB_NAMES else url.netloc
    name, colon, tag = url.path[1:].rpartition(":")
    try:
        if colon and "*" in tag and "@" not in name:
            return Pattern(source_host(host), _repository(host, name), tag)
        return ImageName.parse(f"{host}{url.path}")
    except (BadRequest, ManifestUnknown) as error:
        raise ConfigInvalid(f"{entry[:160]}: {error}") from None


def _repository(host: str, name: str) -> Repository:
    return repository(f"library/{name}" if host == HUB and "/" not in name else name)
