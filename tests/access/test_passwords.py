"""Passwords: what is remembered, who waits, who is told to pause."""

import asyncio
import threading
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import bcrypt
import pytest
from structlog.testing import capture_logs

from registry_proxy.access import passwords as module
from registry_proxy.access.passwords import LINE, LINE_OF_ONE, Passwords
from registry_proxy.access.users import Users
from registry_proxy.config import Config, Policy, Store
from registry_proxy.config.units import Seconds
from registry_proxy.errors import TooManyRequests
from registry_proxy.plan.attempts import AT_ONCE, PAUSE
from registry_proxy.plan.basic import Basic
from registry_proxy.plan.users import User


class Known(Users):
    """Users whose passwords are checked as soon as ``gate`` is open. ``asked``: how often; ``begun``: a first check."""

    def __init__(self, **passwords: str) -> None:
        hashes = {
            User(name): bcrypt.hashpw(each.encode(), bcrypt.gensalt(4)).decode() for name, each in passwords.items()
        }
        super().__init__(hashes)
        self.asked = 0
        self.begun, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def check(self, claimed: Basic) -> User | None:
        self.asked += 1
        self.begun.set()
        self.gate.wait()
        return super().check(claimed)


class Clock:
    """Seconds, as the test has them."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def header(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def configured(**hashes: str) -> Config:
    return Config(Store(Path("/nowhere")), {}, htpasswd=hashes, policy=Policy(verdict=Seconds(30)))


ALICE = header("alice", "wonder")


@pytest.fixture
def known() -> Known:
    return Known(alice="wonder", bob="builder")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals() -> list[None]:
    return []


@pytest.fixture
async def passwords(known: Known, clock: Clock, refusals: list[None], no_blocking: None) -> AsyncIterator[Passwords]:
    made = Passwords(known, 60, lambda: refusals.append(None), clock)
    yield made
    known.gate.set()
    await made.close()


async def test_a_right_password_is_checked_once(passwords: Passwords, known: Known, clock: Clock) -> None:
    """Its user is at hand as long as it is used often enough; then it is checked again."""
    assert passwords.at_hand(ALICE) is None
    assert await passwords.check(ALICE, "a") == "alice"
    assert passwords.at_hand(ALICE) == "alice"
    assert await passwords.check(ALICE, "b") == "alice"
    for _ in range(3):
        clock.now += 59
        assert passwords.at_hand(ALICE) == "alice"
    assert known.asked == 1
    clock.now += 60
    assert passwords.at_hand(ALICE) is None
    assert await passwords.check(ALICE, "a") == "alice"
    assert known.asked == 2


async def test_a_wrong_one_is_nobodys(passwords: Passwords, known: Known) -> None:
    """A wrong password is never at hand, and who repeats it costs nothing and is not told to pause."""
    wrong = header("alice", "guess")
    for _ in range(3 * AT_ONCE):
        assert await passwords.check(wrong, "a") is None
    assert passwords.at_hand(wrong) is None
    assert known.asked == 1
    assert await passwords.check(ALICE, "a") == "alice"


@pytest.mark.parametrize("text", ["Bearer abc", "Basic !", "Basic", "", header("alice", "wonder")[:-3] + "\udcff"])
async def test_what_is_no_password(passwords: Passwords, known: Known, text: str) -> None:
    """Another scheme, or nonsense, is nobody's, and nothing is checked for it."""
    assert await passwords.check(text, "a") is None
    assert known.asked == 0


async def test_many_at_once_are_checked_once(passwords: Passwords, known: Known) -> None:
    """A farm that logs in with one account costs one check."""
    found = await asyncio.gather(*(passwords.check(ALICE, f"10.0.0.{number}") for number in range(200)))
    assert found == ["alice"] * 200
    assert known.asked == 1


async def test_guessing(passwords: Passwords, known: Known, clock: Clock, refusals: list[None]) -> None:
    """Who guesses has to pause after so many; others log in meanwhile, and who is known already is not asked to pause."""
    assert await passwords.check(ALICE, "a") == "alice"
    for number in range(AT_ONCE):
        assert await passwords.check(header("alice", str(number)), "a") is None
    with pytest.raises(TooManyRequests) as error:
        await passwords.check(header("alice", "one more"), "a")
    assert error.value.retry_after == PAUSE
    assert len(refusals) == 1
    assert await passwords.check(ALICE, "a") == "alice"
    assert await passwords.check(header("bob", "builder"), "b") == "bob"
    asked = known.asked
    clock.now += PAUSE
    assert await passwords.check(header("alice", "one more"), "a") is None
    assert known.asked == asked + 1


async def test_the_line_is_short(passwords: Passwords, known: Known, refusals: list[None]) -> None:
    """One client's passwords take so many places of the line, all together so many; beyond, 429 at once, and the others get theirs."""
    known.gate.clear()
    waiting = [
        asyncio.create_task(passwords.check(header("alice", f"{client}-{number}"), str(client)))
        for client in range(LINE // LINE_OF_ONE)
        for number in range(LINE_OF_ONE + 1)
    ]
    done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    while len(done) < LINE // LINE_OF_ONE:
        more, rest = await asyncio.wait(rest, return_when=asyncio.FIRST_COMPLETED)
        done |= more
    assert all(isinstance(task.exception(), TooManyRequests) for task in done)
    with pytest.raises(TooManyRequests):
        await passwords.check(ALICE, "another")
    assert len(refusals) == len(done) + 1
    known.gate.set()
    assert await asyncio.gather(*rest) == [None] * LINE
    assert await passwords.check(ALICE, "another") == "alice"


async def test_a_line_that_does_not_move(passwords: Passwords, known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited too long is told to come back, and its place is free again."""
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    known.gate.clear()
    for _ in range(LINE_OF_ONE + 1):
        with pytest.raises(TooManyRequests, match="being checked"):
            await passwords.check(ALICE, "a")


async def test_who_leaves_is_not_checked(passwords: Passwords, known: Known) -> None:
    """A client that goes away gives its place back, and what has not begun is never begun."""
    known.gate.clear()
    first = asyncio.create_task(passwords.check(header("alice", "0"), "a"))
    others = [
        asyncio.create_task(passwords.check(header("alice", str(number)), "a")) for number in range(1, LINE_OF_ONE)
    ]
    await asyncio.to_thread(known.begun.wait)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    known.gate.set()
    assert await first is None
    assert await passwords.check(ALICE, "a") == "alice"
    assert known.asked == 2


async def test_users_who_changed(passwords: Passwords) -> None:
    """Other users hold at once, and nothing is remembered of those before; the same ones change nothing."""
    wrong = header("bob", "new")
    assert await passwords.check(ALICE, "a") == "alice"
    assert await passwords.check(wrong, "a") is None
    passwords.apply(configured(**passwords._users.hashes))
    assert passwords.at_hand(ALICE) == "alice"
    passwords.apply(configured(**Known(bob="new").hashes))
    assert passwords.at_hand(ALICE) is None
    assert await passwords.check(ALICE, "a") is None
    assert await passwords.check(wrong, "a") == "bob"
    assert passwords.life == 30
    passwords.apply(configured())
    assert await passwords.check(wrong, "a") is None


async def test_users_who_change_during_a_check(passwords: Passwords, known: Known) -> None:
    """An answer by the old users is none: it is asked for again."""
    known.gate.clear()
    checking = asyncio.create_task(passwords.check(ALICE, "a"))
    await asyncio.to_thread(known.begun.wait)
    passwords.apply(configured())
    known.gate.set()
    assert await checking is None
    assert passwords.at_hand(ALICE) is None


async def test_memory(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many answers of a kind are remembered: wrong ones push out wrong ones alone."""
    monkeypatch.setattr(module, "_KEPT", 4)
    assert await passwords.check(ALICE, "a") == "alice"
    for number in range(AT_ONCE):
        await passwords.check(header("alice", str(number)), "a")
    assert len(passwords._wrong._kept) == 4
    assert passwords.at_hand(ALICE) == "alice"
    assert ALICE not in repr(vars(passwords))


async def test_no_log_line_has_a_password(passwords: Passwords) -> None:
    """Who failed is told by address; no name and no password."""
    with capture_logs() as logs:
        await passwords.check(header("alice", "guess"), "192.0.2.1")
    assert logs == [{"event": "login.refused", "log_level": "info", "client": "192.0.2.1"}]
