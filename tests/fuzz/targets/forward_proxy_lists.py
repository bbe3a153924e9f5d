"""Lists of forward proxies in CVMFS's syntax. Two lines: the groups, and those to fall back to."""

from registry_proxy.plan.forward_proxies import DIRECT, Chain, parse
from registry_proxy.plan.origins import Origin
from tests.fuzz.text import fields


def run(data: bytes) -> None:
    """A list is refused, or each of its members is a way that a walk comes past once."""
    text, fallback = fields(data, 2)
    try:
        groups = parse(text, fallback)
    except ValueError:
        return
    members = {member for group in groups for member in group}
    assert groups
    assert all(groups)
    assert all(member == DIRECT or Origin.of(member) for member in members)
    if len(members) > 64:
        return
    walk = Chain(groups, b"seed").walk()
    while walk.next(0.0) is not None:
        pass
    assert sorted(walk.tried) == sorted(members)
