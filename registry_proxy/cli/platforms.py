"""Which manifests of an index are wanted: ``linux/amd64``, ``linux/arm64/v8``, ``all``."""

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from registry_proxy.errors import ConfigInvalid
from registry_proxy.oci.content import Descriptor

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A platform somebody asks for (image-spec, "Image index property descriptions"). Empty parts match everything."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> "Wanted":
        """Parse ``os/architecture[/variant]`` or ``all``; raises ConfigInvalid."""
        if text == "all":
            return cls()
        parts = text.split("/")
        if not 2 <= len(parts) <= 3 or not all(part.isalnum() for part in parts):
            raise ConfigInvalid(f"--platform: {text!r} is not a platform such as linux/amd64")
        return cls(*parts)

    @classmethod
    def here(cls) -> "Wanted":
        """The platform of this machine, for containers: Linux."""
        machine = platform.machine()
        return cls("linux", _MACHINES.get(machine, machine))

    def matches(self, descriptor: Descriptor) -> bool:
        """True if the manifest runs there; one that names no platform does (it may be an image of its own)."""
        found = descriptor.platform
        if found is None or not self.os:
            return True
        return (found.os, found.architecture) == (self.os, self.architecture) and self.variant in ("", found.variant)


def choose(descriptors: Iterable[Descriptor], wanted: Sequence[Wanted]) -> list[Descriptor]:
    """The descriptors that any of the platforms wants, in their order."""
    return [descriptor for descriptor in descriptors if any(one.matches(descriptor) for one in wanted)]
