"""`WWW-Authenticate`, one header a line, and the realms that it names."""

import contextlib

from registry_proxy.errors import UpstreamBroken
from registry_proxy.plan.challenges import parse_challenges
from registry_proxy.plan.origins import Origin
from registry_proxy.plan.realms import check_realm

UPSTREAM = Origin.of("https://registry.example.org")


def run(data: bytes) -> None:
    """Challenges are read or refused; a realm that is accepted is https on the upstream's domain."""
    with contextlib.suppress(UpstreamBroken):
        for challenge in parse_challenges(data.decode("utf-8", "surrogateescape").split("\n")):
            assert challenge.scheme == challenge.scheme.lower() != ""
            realm = check_realm(UPSTREAM, challenge.parameters.get("realm", ""), ())
            assert realm.scheme == "https"
            assert realm.host.rstrip(".") == "example.org" or realm.host.rstrip(".").endswith(".example.org")
