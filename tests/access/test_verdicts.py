"""Verdicts about clients: each for one credential and one repository, for its time and no longer."""

import asyncio
from base64 import b64encode

import pytest

from registry_proxy.access.caller import Caller
from registry_proxy.access.gate import Subject
from registry_proxy.access.guesses import Guesses
from registry_proxy.access.pass_through import PassThrough
from registry_proxy.access.token_relay import TokenRelay
from registry_proxy.access.verdicts import Verdicts
from registry_proxy.config import Policy
from registry_proxy.config.units import Seconds
from registry_proxy.errors import Denied, LoginNeeded
from registry_proxy.net.upstream import UpstreamClient
from registry_proxy.net.wallet import Wallet
from registry_proxy.oci.names import Repository, Tag
from registry_proxy.telemetry.metrics import Metrics
from tests.fakes.clients import HOST, settings_for
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.plan.test_tokens import jwt

APP, OTHER = Repository(REPOSITORY), Repository("team/other")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verdicts(clock: Clock) -> Verdicts:
    return Verdicts(clock)


def test_a_yes_is_for_one_credential_and_one_repository(verdicts: Verdicts, clock: Clock) -> None:
    """Nobody else, and nowhere else; none at all counts as a credential of its own."""
    verdicts.allow("Bearer a", APP, 60)
    verdicts.allow(None, OTHER, 60)
    assert verdicts.yes("Bearer a", APP)
    assert verdicts.yes(None, OTHER)
    for shown, repository in (("Bearer b", APP), ("Bearer a", OTHER), ("Bearer a", None), (None, APP), ("", APP)):
        assert not verdicts.yes(shown, repository)
    clock.now += 60
    assert not verdicts.yes("Bearer a", APP)


def test_a_no_holds_for_its_time(verdicts: Verdicts, clock: Clock) -> None:
    """A refusal is told again until it ends."""
    verdicts.deny("x", APP, Denied("no"), 5)
    assert str(verdicts.no("x", APP)) == "no"
    assert verdicts.no("x", OTHER) is None
    clock.now += 5
    assert verdicts.no("x", APP) is None


def test_a_no_keeps_nothing_of_the_request(verdicts: Verdicts) -> None:
    """What is told again says the same, and leads to nothing that was in hand when it was said, nor when it was told before."""
    try:
        raise LoginNeeded("who?", service="s") from ValueError("hunter2")
    except LoginNeeded as refusal:
        verdicts.deny("x", APP, refusal, 5)
    for _ in range(2):
        told = verdicts.no("x", APP)
        assert isinstance(told, LoginNeeded)
        assert (str(told), told.service, told.__traceback__, told.__cause__) == ("who?", "s", None, None)
        with pytest.raises(LoginNeeded):
            raise told


def test_what_is_taken_back(verdicts: Verdicts) -> None:
    """One verdict is dropped, or all are forgotten."""
    for repository in (APP, OTHER):
        verdicts.allow("x", repository, 60)
    verdicts.drop(APP, "x")
    assert [verdicts.yes("x", repository) for repository in (APP, OTHER)] == [False, True]
    verdicts.forget()
    assert not verdicts.yes("x", OTHER)


def test_no_credential_is_kept(verdicts: Verdicts) -> None:
    """What stands for a credential has nothing of it, and is another in another process."""
    assert verdicts.who("Bearer hunter2") == verdicts.who("Bearer hunter2") != Verdicts(Clock()).who("Bearer hunter2")
    verdicts.allow("Bearer hunter2", APP, 60)
    verdicts.ends("Bearer hunter2", 60)
    assert "hunter2" not in repr(vars(verdicts))


def test_they_are_bounded(verdicts: Verdicts) -> None:
    """Of too many the oldest go."""
    for number in range(70_000):
        verdicts.allow(f"{number}", APP, 60)
    assert not verdicts.yes("0", APP)
    assert verdicts.yes("69999", APP)


@pytest.mark.parametrize(
    ("limit", "expires_in", "exp", "life"),
    [
        (60, None, None, 60),
        (60, 20, None, 20),
        (60, 300, None, 60),
        (60, 30, -10, 30),
        (60, None, -10, 0),
        (5, 300, 300, 5),
    ],
)
async def test_how_long_a_yes_holds(
    clock: Clock, verdicts: Verdicts, limit: float, expires_in: float | None, exp: float | None, life: float
) -> None:
    """No longer than the policy says, and than the token was given for, or, where that is not known, than it says itself."""
    shown = "Bearer opaque" if exp is None else jwt({"exp": 5_000_000 + exp})
    if expires_in is not None:
        verdicts.ends(shown, expires_in)
    wallet = Wallet(HOST, clock, verdicts.drop)
    async with FakeUpstream() as upstream:
        upstream.add_image(tag="v1")
        async with UpstreamClient(HOST, settings_for(upstream, access="pass-through"), Metrics(), wallet) as client:
            policy = Policy(verdict=Seconds(limit))
            gate = PassThrough(
                client, wallet, verdicts, Guesses(verdicts, lambda: None, clock), policy, clock, lambda: 5_000_000.0
            )
            caller = Caller(shown, "127.0.0.1")
            assert await gate.admit(caller, Subject(APP, manifest=Tag("v1"))) == life
            assert gate.at_hand(caller, APP) == (life > 0)
            assert not gate.at_hand(caller, OTHER)
            clock.now += life
            assert not gate.at_hand(caller, APP)


@pytest.mark.parametrize("kind", ["manifest", "token"])
async def test_one_client_keeps_nobody_waiting(clock: Clock, verdicts: Verdicts, kind: str) -> None:
    """However much one address asks, the next question of another one, or its login, goes before what of that still waits."""
    wallet = Wallet(HOST, clock, verdicts.drop)
    async with FakeUpstream(auth="bearer") as upstream:
        upstream.add_image(tag="v1")
        held = upstream.hold(kind)
        async with UpstreamClient(HOST, settings_for(upstream, access="pass-through"), Metrics(), wallet) as client:
            guesses = Guesses(verdicts, lambda: None, clock)
            gate = PassThrough(client, wallet, verdicts, guesses, Policy(), clock)
            relay = TokenRelay(client, wallet, verdicts, guesses)

            async def ask(name: str, address: str) -> None:
                if kind == "token":
                    await relay.token(Caller("Basic " + b64encode(name.encode()).decode(), address), "")
                else:
                    await gate.admit(Caller(f"Bearer {name}", address), Subject(APP, manifest=Tag("v1")))

            flood = [asyncio.create_task(ask(f"flood:{number}", "192.0.2.1")) for number in range(100)]
            await upstream.until_asked(12, kind)
            other = asyncio.create_task(ask("other:one", "192.0.2.2"))
            await upstream.until_asked(13, kind)
            held.set()
            await asyncio.gather(other, *flood, return_exceptions=True)
            shown = upstream.asked(kind)[12].headers["Authorization"].partition(" ")[2]
            assert shown in {"other:one", b64encode(b"other:one").decode()}


@pytest.mark.parametrize("head", [True, False])
async def test_what_the_upstream_is_asked(clock: Clock, verdicts: Verdicts, head: bool) -> None:
    """The very thing, by HEAD, or by its first byte where HEAD is refused; what is not there, by its repository; a no is told again."""
    wallet = Wallet(HOST, clock, verdicts.drop)
    async with FakeUpstream(head_blob=head) as upstream:
        upstream.add_image(tag="v1")
        digest = upstream.add_blob(b"x" * 1000)
        async with UpstreamClient(HOST, settings_for(upstream, access="pass-through"), Metrics(), wallet) as client:
            gate = PassThrough(client, wallet, verdicts, Guesses(verdicts, lambda: None, clock), Policy(), clock)
            caller = Caller("Bearer x", "127.0.0.1")
            await gate.admit(caller, Subject(APP, blob=digest))
            assert [asked.method for asked in upstream.asked("blob")] == (["HEAD"] if head else ["HEAD", "GET"])
            assert upstream.sent(digest) <= 1
            assert {asked.headers["Authorization"] for asked in upstream.requests} == {"Bearer x"}
            await gate.admit(caller, Subject(APP, manifest=Tag("none")))
            assert [asked.query for asked in upstream.asked("tags")] == [{"n": "1"}]
            upstream.auth = "bearer"
            for _ in range(3):
                with pytest.raises(LoginNeeded):
                    await gate.admit(Caller("Bearer y", "127.0.0.1"), Subject(OTHER))
            assert len(upstream.asked("tags")) == 2
