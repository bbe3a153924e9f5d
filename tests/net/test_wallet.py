"""What clients showed, for fetches on their behalf: the newest first, never for long, never too much of it."""

import pytest

from registry_proxy.errors import Denied, LoginNeeded
from registry_proxy.net.authority import Refusal, Shown
from registry_proxy.net.wallet import Wallet
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.plan.challenges import parse_challenges
from registry_proxy.plan.origins import Origin

MIRROR = Origin("https", "registry.example", 443)
APP, OTHER = Repository("team/app"), Repository("team/other")
FOREVER = float("inf")


class Case:
    """A wallet and its clock. ``dropped``: what it was told to forget."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.dropped: list[tuple[str | None, str | None]] = []
        self.wallet = Wallet(
            SourceHost("registry.example"), lambda: self.now, lambda name, shown: self.dropped.append((name, shown))
        )

    async def shown(self, repository: Repository = APP) -> str | None:
        return await self.wallet.header(MIRROR, repository)

    def refuse(
        self, authorization: str | None, status: int = 401, challenge: str = 'Bearer realm="r",service="s"'
    ) -> bool:
        return self.wallet.learn(Refusal(MIRROR, APP, status, parse_challenges([challenge]), Shown(authorization)))


@pytest.fixture
def case() -> Case:
    return Case()


async def test_the_newest_is_shown_where_it_was_admitted(case: Case) -> None:
    """Each repository has its own, and none is shown where nobody was admitted."""
    case.wallet.put(APP, Shown("one"), FOREVER)
    case.wallet.put(APP, Shown("two"), FOREVER)
    case.wallet.put(APP, Shown(None), FOREVER)
    case.wallet.put(APP, Shown("two"), FOREVER)
    assert await case.shown() == "two"
    with pytest.raises(Denied):
        await case.shown(OTHER)


async def test_what_is_refused_is_dropped_and_the_next_is_shown(case: Case) -> None:
    """A refusal says whether there is another one to try; the last refusal asks the client to log in."""
    for each in ("one", "two"):
        case.wallet.put(APP, Shown(each), FOREVER)
    assert case.refuse("two")
    assert await case.shown() == "one"
    assert not case.refuse("one", 403)
    assert case.dropped == [(APP, "two"), (APP, "one")]
    with pytest.raises(LoginNeeded) as caught:
        await case.shown()
    assert (caught.value.basic, caught.value.service) == (None, "s")


@pytest.mark.parametrize(
    ("challenge", "basic", "service"),
    [
        ('Basic realm="x"', "registry.example", ""),
        ('Basic realm="x", Bearer realm="r"', None, ""),
        ('Bearer realm="r",service="s"', None, "s"),
    ],
)
def test_what_clients_are_asked_for(case: Case, challenge: str, basic: str | None, service: str) -> None:
    """The upstream's own scheme, tokens before passwords; for 403 and for schemes that nobody knows, nothing."""
    case.refuse("x", 401, challenge)
    refusal = Refusal(MIRROR, APP, 401, [], Shown("x"))
    told = case.wallet.denial(refusal, "subject")
    assert isinstance(told, LoginNeeded)
    assert (told.basic, told.service) == (basic, service)
    assert case.wallet.denial(Refusal(MIRROR, APP, 403, [], Shown("x")), "subject") is None


def test_a_challenge_that_nobody_can_answer_is_a_refusal(case: Case) -> None:
    """Without a scheme that clients know nobody is asked to log in."""
    case.refuse("x", 401, "Negotiate")
    told = case.wallet.denial(Refusal(MIRROR, APP, 401, [], Shown("x")), "subject")
    assert told is not None
    assert not isinstance(told, LoginNeeded)


async def test_it_ends_with_its_token_or_when_it_is_not_used(case: Case) -> None:
    """Five minutes after its last use, and at the end of its token however much it is used, a header is gone."""
    case.wallet.put(APP, Shown("one"), case.now + 700)
    for _ in range(3):
        case.now += 200
        assert await case.shown() == "one"
    case.now += 100
    with pytest.raises(Denied):
        await case.shown()
    case.wallet.put(APP, Shown("two"), FOREVER)
    case.now += 300
    with pytest.raises(Denied):
        await case.shown()


async def test_those_that_last_are_kept(case: Case) -> None:
    """Of too many for one repository the one that ends first goes, so that no client's yes outlives all that can be shown."""
    case.wallet.put(APP, Shown("long"), case.now + 10_000)
    for number in range(40):
        case.wallet.put(APP, Shown(f"short {number}"), case.now + 10)
    case.now += 20
    assert await case.shown() == "long"


async def test_it_is_bounded(case: Case) -> None:
    """However many repositories there are and however long the headers, the oldest go."""
    for number in range(5000):
        case.wallet.put(Repository(f"team/{number}"), Shown("x"), FOREVER)
    with pytest.raises(Denied):
        await case.shown(Repository("team/0"))
    for number in range(600):
        case.wallet.put(Repository(f"team/{number}"), Shown(f"{number}" + "x" * 16_000), FOREVER)
    with pytest.raises(Denied):
        await case.shown(Repository("team/0"))
    assert str(await case.shown(Repository("team/599"))).startswith("599")


def test_nothing_is_shown_in_a_text() -> None:
    """What prints a header by accident prints none."""
    assert "secret" not in repr(Shown("secret")) + repr(Refusal(MIRROR, APP, 401, [], Shown("secret")))
