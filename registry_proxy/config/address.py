"""Listen addresses: ``127.0.0.1:5000``, ``[::1]:5000``, ``:5000`` (every interface)."""

import ipaddress
import re
from dataclasses import dataclass

from registry_proxy.oci.names import source_host

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]*):([0-9]{1,5})\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. ``host``: a name or IP address without brackets, empty for every interface; ``port``: 0 for a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Parse ``HOST:PORT``; raises ValueError."""
        match = _ADDRESS.match(text)
        if match is None or int(match[2]) > 65535:
            raise ValueError(f'{text!r} is not an address such as "127.0.0.1:5000"')
        if match[1].startswith("["):
            return cls(str(ipaddress.IPv6Address(match[1][1:-1])), int(match[2]))
        return cls(source_host(match[1]) if match[1] else "", int(match[2]))

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def netloc(self) -> str:
        """How a client on this machine reaches it: ``host:port`` for a URL, loopback where every interface is meant."""
        host = "127.0.0.1" if self.host in ("", "0.0.0.0") else "::1" if self.host == "::" else self.host  # noqa: S104 - compared, not bound
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
