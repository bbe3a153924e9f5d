"""Networks of clients."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.plan.networks import Networks


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.0.0.1", True),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
        ("fe80::1%eth0", True),
        ("unix", False),
        ("", False),
        ("no address", False),
    ],
)
def test_addresses(address: str, inside: bool) -> None:
    """A client is inside by its address alone, however that is written."""
    networks = Networks(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "fe80::/10"])
    assert (address in networks) is inside


def test_unix_sockets() -> None:
    """Who comes by a Unix socket has no address, and is inside only if that is said."""
    assert "unix" in Networks(["unix"])
    assert not any(address in Networks(["unix"]) for address in ("10.0.0.1", "", "no address"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("10.0.0.1/8", "the network is '10.0.0.0/8'"),
        ("2001:db8::1/32", "the network is '2001:db8::/32'"),
        ("10.0.0.0/33", "not a network"),
        ("example.org", "not a network"),
        ("", "not a network"),
        ("10.0.0.0/8/8", "not a network"),
    ],
)
def test_networks_that_are_none(text: str, problem: str) -> None:
    """A network that cannot be meant is refused, with the one that may be."""
    with pytest.raises(ValueError, match=problem):
        Networks([text])


@given(st.ip_addresses() | st.ip_addresses(network="::ffff:0:0/96"), st.data())
def test_every_network_has_its_addresses(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, data: st.DataObject
) -> None:
    """An address is in each network made from it, and in the opposite half of none."""
    bits = data.draw(st.integers(1, address.max_prefixlen))
    network = ipaddress.ip_network((address, bits), strict=False)
    assert str(address) in Networks([str(network)])
    other = type(address)(int(address) ^ 1 << (address.max_prefixlen - bits))
    assert str(other) not in Networks([str(network)])
