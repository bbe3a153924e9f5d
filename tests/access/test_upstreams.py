"""Upstreams that change while they serve."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from registry_proxy.access.caller import Caller
from registry_proxy.access.gate import Subject
from registry_proxy.access.passwords import Passwords
from registry_proxy.access.upstreams import Upstreams
from registry_proxy.access.users import Users
from registry_proxy.config import Config, Store, Upstream
from registry_proxy.errors import ConfigInvalid, Denied, LoginNeeded
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.telemetry.metrics import Metrics

ONE, TWO = SourceHost("one.example"), SourceHost("two.example")
OPEN = Upstream(("https://x.example",))
LOCAL = structs.replace(OPEN, access="local", readers={"alice": ("*",)})
FENCED = structs.replace(OPEN, networks=("192.0.2.0/24",))
PASSING = structs.replace(OPEN, access="pass-through")
SOMEBODY, SUBJECT = Caller(None, "198.51.100.1"), Subject(Repository("app"))


def config(**upstreams: Upstream) -> Config:
    return Config(Store(Path("/nowhere")), {SourceHost(f"{name}.example"): one for name, one in upstreams.items()})


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    made = Passwords(Users({}), 60, lambda: None)
    yield made
    await made.close()


def made(passwords: Passwords, **upstreams: Upstream) -> Upstreams:
    return Upstreams(config(**upstreams), passwords, Metrics())


async def test_mappings_that_others_hold_follow(passwords: Passwords) -> None:
    """Whoever was given a mapping at the start sees what comes, changes and goes."""
    upstreams = made(passwords, one=OPEN)
    settings, guard, realms, registries = upstreams.settings, upstreams.guard, upstreams.realms, upstreams.registries
    upstreams.apply(config(one=LOCAL, two=PASSING))
    assert settings == {ONE: LOCAL, TWO: PASSING}
    assert (guard.keys(), realms.keys(), registries.keys()) == ({ONE, TWO}, {TWO}, {ONE, TWO})
    assert not registries[ONE].anonymous(Repository("app"))
    upstreams.apply(config(one=FENCED))
    assert settings == {ONE: FENCED}
    with pytest.raises(Denied, match="your address"):
        await guard[ONE].admit(SOMEBODY, SUBJECT)
    upstreams.apply(config(one=OPEN))
    assert ONE not in guard


async def test_a_gate_outlives_its_upstream(passwords: Passwords) -> None:
    """Who was on the way to an upstream that goes meets its gate all the same, until it comes back as another."""
    upstreams = made(passwords, one=LOCAL)
    upstreams.apply(config(two=OPEN))
    assert ONE not in upstreams.settings
    with pytest.raises(LoginNeeded):
        await upstreams.guard[ONE].admit(SOMEBODY, SUBJECT)
    assert ONE in upstreams.clients
    upstreams.apply(config(one=OPEN))
    assert ONE not in upstreams.guard


async def test_only_what_is_said_to_it_needs_another_client(passwords: Passwords) -> None:
    """Readers, networks, freshness and the like are looked up; URLs and the rest make another client, which anybody meets at once."""
    upstreams = made(passwords, one=LOCAL)
    client = upstreams.clients[ONE]
    same = structs.replace(LOCAL, readers={"bob": ("*",)}, networks=("10.0.0.0/8",), tag_fresh=1, catalog=True)
    upstreams.apply(config(one=same))
    assert upstreams.clients[ONE] is client
    for changed in ({"urls": ("https://y.example",)}, {"connections": 3}, {"access": "open", "readers": {}}):
        upstreams.apply(config(one=structs.replace(LOCAL, **changed)))
        assert upstreams.clients[ONE] is not client
        client = upstreams.clients[ONE]


async def test_once_private_stays_closed(passwords: Passwords) -> None:
    """What was fetched for few lies in the store even when no upstream is private any more."""
    upstreams = made(passwords, one=OPEN)
    assert not upstreams.closed
    for each in (LOCAL, OPEN):
        upstreams.apply(config(one=each))
        assert upstreams.closed


async def test_what_cannot_be_made_changes_nothing(passwords: Passwords) -> None:
    """One upstream that cannot be spoken to leaves all as they were."""
    upstreams = made(passwords, one=OPEN)
    client = upstreams.clients[ONE]
    broken = structs.replace(OPEN, ca=Path("/nowhere/ca.pem"))
    with pytest.raises(ConfigInvalid, match=r'upstream."two.example".ca'):
        upstreams.apply(config(one=structs.replace(LOCAL, connections=3), two=broken))
    assert upstreams.settings == {ONE: OPEN}
    assert upstreams.clients == {ONE: client}
    assert not upstreams.guard
    assert not upstreams.closed
