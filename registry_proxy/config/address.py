"""Listen addresses: ``127.0.0.1:5000``, ``[::1]:5000``, ``:5000`` (every interface), ``unix:/run/registry-proxy.sock``."""

import ipaddress
import re
from dataclasses import dataclass

from registry_proxy.oci.names import source_host

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]*):([0-9]{1,5})\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. ``host``: a name or IP address without brackets, empty for every interface; ``port``: 0 for a free one.

    ``path``: of a Unix socket, which has neither.
    """

    host: str
    port: int
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Parse ``HOST:PORT`` or ``unix:PATH``; raises ValueError."""
        if text.startswith("unix:"):
            return cls("", 0, _socket_path(text.removeprefix("unix:")))
        match = _ADDRESS.match(text)
        if match is None or int(match[2]) > 65535:
            raise ValueError(f'{text!r} is not an address such as "127.0.0.1:5000" or ":5000"')
        if match[1].startswith("["):
            return cls(str(ipaddress.IPv6Address(match[1][1:-1])), int(match[2]))
        return cls(source_host(match[1]) if match[1] else "", int(match[2]))

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach it."""
        if self.host == "localhost" or self.path is not None:
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


def _socket_path(path: str) -> str:
    """The path of a Unix socket; unix(7): at most 107 bytes."""
    if not path.startswith("/") or "\0" in path or len(path.encode()) > 107:
        raise ValueError("the path of a Unix socket is absolute and at most 107 bytes long")
    return path
