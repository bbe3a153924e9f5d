"""Which lazy forms of an image are offered, on which terms, and how they are called. Pure."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final

from registry_proxy.config.values import Lazy, Readiness, Unready
from registry_proxy.oci.names import Repository, SourceHost, Tag

_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class Kind(StrEnum):
    """A lazy form of an image."""

    SOCI = "soci"
    ESTARGZ = "estargz"


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for one repository; fields as in ``config.Lazy``."""

    soci: Readiness
    estargz: Readiness
    span_size: int
    smallest_layer: int
    unready: Unready

    def readiness(self, kind: Kind) -> Readiness:
        """When this form is made."""
        return self.soci if kind is Kind.SOCI else self.estargz


def terms_for(settings: Lazy, upstream: SourceHost, repository: Repository) -> Terms:
    """The section's own terms with what the first rule that matches the image says instead."""
    name = f"{upstream}/{repository}"
    rule = next((one for one in settings.rules if any(fnmatchcase(name, each) for each in one.images)), None)
    said = [getattr(rule, key, None) for key in Terms.__dataclass_fields__]
    own = [getattr(settings, key) for key in Terms.__dataclass_fields__]
    return Terms(*(mine if other is None else other for other, mine in zip(said, own, strict=True)))


def suffixed(settings: Lazy, tag: Tag) -> tuple[Kind, Tag] | None:
    """The form that a tag's suffix asks for, and the tag without it; None for a plain tag."""
    for kind, suffix in ((Kind.SOCI, settings.soci_suffix), (Kind.ESTARGZ, settings.estargz_suffix)):
        if tag.endswith(suffix) and len(tag) > len(suffix):
            return kind, Tag(tag[: -len(suffix)])
    return None


def wanted_platform(settings: Lazy, system: str, architecture: str, variant: str) -> bool:
    """True if images of this platform are to be made lazy."""
    return any(_matches(each, system, architecture, variant) for each in settings.platforms or (_own(),))


def _own() -> str:
    machine = platform.machine()
    return f"linux/{_MACHINES.get(machine, machine)}"


def _matches(wanted: str, *found: str) -> bool:
    parts: Sequence[str] = wanted.split("/")
    return tuple(parts) == found[: len(parts)]
