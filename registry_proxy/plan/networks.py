"""Networks of clients: the addresses that an upstream is served to."""

import functools
import ipaddress
from collections.abc import Sequence
from typing import Final

UNIX: Final = "unix"
"""Stands for clients on a Unix socket, which have no address."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Networks:
    """Some networks (``10.0.0.0/8``, ``2001:db8::/32``), single addresses, or ``unix``. Raises ValueError for anything else."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._networks = tuple(_network(text) for text in texts if text != UNIX)
        self._unix = UNIX in texts

    def __contains__(self, address: str) -> bool:
        """True if a client of this address (``unix``: on a Unix socket) is in one of them."""
        found = _address(address)
        return self._unix if found is None else any(found in network for network in self._networks)


def _network(text: str) -> _Network:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'{text!r} is not a network such as "10.0.0.0/8"') from None
    if ipaddress.ip_interface(text).ip != network.network_address:
        raise ValueError(f"{text!r} is an address within a network: the network is {str(network)!r}")
    return network


@functools.lru_cache(maxsize=4096)
def _address(text: str) -> _Address | None:
    """The address of a client; None if it has none. An IPv4 one may be written as IPv6 (RFC 4291 §2.5.5.2)."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
