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
        if address == UNIX:
            return self._unix
        return any(each in network for each in _addresses(address) for network in self._networks)


def _network(text: str) -> _Network:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'{text!r} is not a network such as "10.0.0.0/8"') from None
    if ipaddress.ip_interface(text).ip != network.network_address:
        raise ValueError(f"{text!r} is an address within a network: the network is {str(network)!r}")
    return network


@functools.lru_cache(maxsize=4096)
def _addresses(text: str) -> tuple[_Address, ...]:
    """The address of a client as it came, and the IPv4 one that it stands for (RFC 4291 §2.5.5.2); none if it has none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ()
    mapped = getattr(address, "ipv4_mapped", None)
    return (address,) if mapped is None else (address, mapped)
