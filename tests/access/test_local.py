"""The gates of the proxy's own users, and of networks."""

from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass

import bcrypt
import pytest

from registry_proxy.access.caller import Caller
from registry_proxy.access.gate import Gate, Subject
from registry_proxy.access.gates import gates
from registry_proxy.access.local import LocalGate
from registry_proxy.access.passwords import Passwords
from registry_proxy.access.users import Users
from registry_proxy.config import Upstream
from registry_proxy.errors import Denied, LoginNeeded
from registry_proxy.oci.names import Repository, SourceHost, Tag

HOST = SourceHost("registry.test")
READERS = {"alice": ("private/*",), "root": ("*",), "*": ("open/*",)}
PRIVATE, OPEN = Repository("private/app"), Repository("open/app")


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def caller(
    user: str = "", password: str = "pw", *, certificate: str | None = None, address: str = "192.0.2.1"
) -> Caller:
    return Caller(basic(user, password) if user else None, address, certificate)


@pytest.fixture
async def passwords(no_blocking: None) -> AsyncIterator[Passwords]:
    """alice, bob and root have the same password."""
    hashed = bcrypt.hashpw(b"pw", bcrypt.gensalt(4)).decode()
    made = Passwords(Users(dict.fromkeys(("alice", "bob", "root"), hashed)), 60, lambda: None)
    yield made
    await made.close()


def gate_of(passwords: Passwords, **settings: object) -> Gate:
    return gates({HOST: Upstream(("https://x.example",), **settings)}, passwords, {})[HOST]  # type: ignore[arg-type]


@pytest.fixture
def gate(passwords: Passwords) -> Gate:
    return gate_of(passwords, access="local", readers=READERS)


async def verdict(gate: Gate, who: Caller, subject: Subject) -> str:
    """What a gate says: yes, who (are you), or no."""
    try:
        assert await gate.admit(who, subject) == 60
    except LoginNeeded as error:
        return "who" if error.basic == "registry-proxy" else "what"
    except Denied:
        return "no"
    return "yes"


@pytest.mark.parametrize(
    ("who", "private", "public", "names", "ping"),
    [
        (caller(), "who", "who", "who", "who"),
        (caller("alice"), "yes", "yes", "no", "yes"),
        (caller("bob"), "no", "yes", "no", "yes"),
        (caller("root"), "yes", "yes", "yes", "yes"),
        (caller("alice", "guess"), "who", "who", "who", "who"),
        (caller("eve"), "who", "who", "who", "who"),
        (caller(certificate="alice"), "yes", "yes", "no", "yes"),
        (caller(certificate="a machine"), "no", "yes", "no", "yes"),
        (caller("bob", certificate="alice"), "no", "yes", "no", "yes"),
        (caller("alice", "guess", certificate="alice"), "who", "who", "who", "who"),
        (Caller("Bearer token", "192.0.2.1"), "who", "who", "who", "who"),
    ],
    ids=str,
)
async def test_users(gate: Gate, who: Caller, private: str, public: str, names: str, ping: str) -> None:
    """Who is named reads what they may, before and after they are known; a wrong password is no name, whatever a certificate says."""
    for repository, wanted in ((PRIVATE, private), (OPEN, public)):
        for subject in (Subject(repository), Subject(repository, manifest=Tag("latest"))):
            assert await verdict(gate, who, subject) == wanted
        assert gate.at_hand(who, repository) is (wanted == "yes")
    assert await verdict(gate, who, Subject(catalog=True)) == names
    assert await verdict(gate, who, Subject()) == ping
    assert not gate.at_hand(who, None)


async def test_nothing_is_at_hand_before_it_was_checked(gate: Gate) -> None:
    """A password is at hand once it was right, and not before."""
    assert not gate.at_hand(caller("alice"), PRIVATE)
    assert await verdict(gate, caller("alice"), Subject(PRIVATE)) == "yes"
    assert gate.at_hand(caller("alice"), PRIVATE)
    assert not gate.at_hand(caller("alice", "pW"), PRIVATE)


async def test_networks(passwords: Passwords) -> None:
    """An address outside gets nothing, by whatever name; in the open mode all others get everything, in the local one by their name."""
    inside, outside = caller("alice"), caller("alice", address="198.51.100.1")
    fenced = gate_of(passwords, networks=("192.0.2.0/24",))
    walled = gate_of(passwords, access="local", networks=("192.0.2.0/24",))
    both = gate_of(passwords, access="local", networks=("192.0.2.0/24",), readers=READERS)
    for gate in (fenced, walled):
        for subject in (Subject(PRIVATE), Subject(), Subject(catalog=True)):
            assert await gate.admit(caller(), subject) > 0
            with pytest.raises(Denied, match="your address"):
                await gate.admit(outside, subject)
        assert gate.at_hand(caller(), PRIVATE)
        assert not gate.at_hand(outside, PRIVATE)
    assert await verdict(both, caller(), Subject(PRIVATE)) == "who"
    assert await verdict(both, inside, Subject(PRIVATE)) == "yes"
    assert await verdict(both, outside, Subject(PRIVATE)) == "no"
    assert both.at_hand(inside, PRIVATE)
    assert not both.at_hand(outside, PRIVATE)


async def test_who_outside_guesses_is_not_told(passwords: Passwords) -> None:
    """From outside, a right password and a wrong one get the same answer, and none is checked."""
    gate = gate_of(passwords, access="local", networks=("192.0.2.0/24",), readers=READERS)
    for password in ("pw", "guess"):
        assert await verdict(gate, caller("alice", password, address="198.51.100.1"), Subject(PRIVATE)) == "no"
    assert passwords.at_hand(basic("alice", "pw")) is None


async def test_unix_sockets(passwords: Passwords) -> None:
    """A client on a Unix socket is inside where that is said."""
    assert gate_of(passwords, networks=("unix",)).at_hand(caller(address="unix"), OPEN)
    assert not gate_of(passwords, networks=("192.0.2.0/24",)).at_hand(caller(address="unix"), OPEN)


def test_open_upstreams_have_no_gate(passwords: Passwords) -> None:
    """Nothing is asked where nobody is kept out; where nobody was named in the local mode, nobody gets in."""
    assert gates({HOST: Upstream(("https://x.example",))}, passwords, {}) == {}
    assert isinstance(gate_of(passwords, access="local"), LocalGate)


@dataclass
class Behind:
    """A gate of another mode."""

    def at_hand(self, caller: Caller, repository: Repository | None) -> bool:
        return True

    async def admit(self, caller: Caller, subject: Subject) -> float:
        return 7


async def test_networks_before_another_mode(passwords: Passwords) -> None:
    """Networks stand before the gate of any mode."""
    upstream = Upstream(("https://x.example",), access="pass-through", networks=("192.0.2.0/24",))
    gate = gates({HOST: upstream}, passwords, {HOST: Behind()})[HOST]
    assert await gate.admit(caller(), Subject()) == 7
    with pytest.raises(Denied):
        await gate.admit(caller(address="::1"), Subject())
