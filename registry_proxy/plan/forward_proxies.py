"""Forward proxies in groups, with CVMFS's syntax and behaviour, as pure decisions.

``"http://a:3128|http://b:3128;http://c:3128;DIRECT"``: ``|`` separates the members of a load-balance group, ``;`` the groups, each
of which is for when all members of the ones before it are burnt; ``DIRECT`` is the way without a forward proxy. A burnt one comes
back after a while, and with it its group. All times are seconds of one monotonic clock, passed in.

Other than in CVMFS, a way is burnt only if another one then does better for the same request: an origin that is down must not
burn every Squid on the way to it.
"""

import re
from collections.abc import Collection, Mapping
from hashlib import blake2b
from typing import Final

from registry_proxy.errors import UpstreamBroken
from registry_proxy.plan.origins import Origin

DIRECT: Final = "DIRECT"
RESET_AFTER: Final = 300.0
_PORT = re.compile(r":[0-9]{1,5}\Z")
_ERROR = re.compile(r";\s*error\s*=", re.IGNORECASE)
_FIRST_REST = 2.0
_LONGEST_REST = 10.0

Groups = tuple[tuple[str, ...], ...]


def parse(text: str, fallback: str = "") -> Groups:
    """The groups of a list (``CVMFS_HTTP_PROXY``) and of the groups to append to it (``CVMFS_FALLBACK_PROXY``; if there are any,
    DIRECT counts nowhere). Raises ValueError, which says what is wrong with which member.
    """
    groups, last = _groups(text), _groups(fallback)
    if last:
        groups = tuple(tuple(way for way in group if way != DIRECT) for group in groups + last)
    found = tuple(filter(None, groups))
    if not found:
        raise ValueError('names no forward proxy: write "http://HOST:3128", or DIRECT for none')
    return found


def _groups(text: str) -> Groups:
    groups = ([each.strip() for each in group.split("|")] for group in text.split(";"))
    return tuple(tuple(dict.fromkeys(map(_member, filter(None, group)))) for group in groups if any(group))


def _member(text: str) -> str:
    if text.upper() == DIRECT:
        return DIRECT
    if text.lower() == "auto":
        raise ValueError("auto (a PAC file) is not supported: name the forward proxies")
    url = (text if "://" in text else f"http://{text}").rstrip("/")
    try:
        Origin.of(url)
    except UpstreamBroken:
        raise ValueError("a member is not a URL such as http://HOST:3128 (without a user name)") from None
    if not _PORT.search(url):
        raise ValueError(f"{url}: name the port, usually :3128")
    return url


def forward_error(headers: Mapping[str, str]) -> str | None:
    """What a forward proxy on the way says went wrong, if it wrote this answer itself: Squid's header, or RFC 9209's."""
    said = headers.get("X-Squid-Error")
    if said is None and _ERROR.search(headers.get("Proxy-Status", "")):
        said = headers["Proxy-Status"]
    return said and said[:80]


def score(member: str, key: bytes) -> bytes:
    """Rendezvous hashing: the member with the highest score has the key. If one goes, only its keys move."""
    return blake2b(member.encode() + b"\0" + key, digest_size=8).digest()


class Chain:
    """The groups and which members are burnt. ``seed``: draws the one member of each group that requests without a key keep to."""

    def __init__(self, groups: Groups, seed: bytes, reset_after: float = RESET_AFTER) -> None:
        self.groups = groups
        self._seed = seed
        self._reset_after = reset_after
        self._burnt: dict[str, float] = {}

    def walk(self, key: bytes | None = None) -> "Walk":
        """The ways that one request may try. ``key``: what it asks for, where members are to share the content."""
        return Walk(self, self._seed if key is None else key)

    def burnt(self, now: float) -> frozenset[str]:
        """The members that nothing goes through while another one lives."""
        return frozenset(way for way, since in self._burnt.items() if now - since < self._reset_after)

    def burn(self, way: str, now: float) -> None:
        """A member has failed. The way without a forward proxy cannot: only its origin can."""
        if way != DIRECT:
            self._burnt[way] = now

    def revive(self, way: str) -> None:
        """A member works."""
        self._burnt.pop(way, None)

    def choose(self, key: bytes, tried: Collection[str], now: float) -> str | None:
        """The first group with a living member that was not tried yet decides; if there is none, burnt ones are tried too.

        None: everything was tried.
        """
        burnt = self.burnt(now)
        for shunned in ({*tried, *burnt}, set(tried)):
            for group in self.groups:
                live = [way for way in group if way not in shunned]
                if live:
                    return max(live, key=lambda way: score(way, key))
        return None


class Walk:
    """One request on its way: at most once through each member. ``tried``: the ways so far, in order."""

    def __init__(self, chain: Chain, key: bytes) -> None:
        self.tried: list[str] = []
        self._chain = chain
        self._key = key

    def next(self, now: float) -> str | None:
        """The way to try now; None if all have failed."""
        way = self._chain.choose(self._key, self.tried, now)
        if way is not None:
            self.tried.append(way)
        return way

    def straight(self) -> str | None:
        """The way without a forward proxy, listed or not, unless it was tried: for when those on the way falsify content."""
        if DIRECT in self.tried:
            return None
        self.tried.append(DIRECT)
        return DIRECT

    def arrived(self, now: float) -> None:
        """The way tried last works: it was not the origin's fault that those before it did not."""
        *failed, way = self.tried
        for each in failed:
            self._chain.burn(each, now)
        self._chain.revive(way)


class LowSpeed:
    """Whether a body comes too slowly: fewer than ``limit`` bytes per second over ``window`` seconds of waiting for it."""

    def __init__(self, limit: float, window: float) -> None:
        self._least = limit * window
        self._window = window
        self._waited = 0.0
        self._got = 0

    @property
    def patience(self) -> float:
        """Seconds that the next bytes may be waited for: while too few have come, no longer than the window lasts."""
        return self._window - self._waited if self._got < self._least else self._window

    def is_slow(self, seconds: float, nbytes: int) -> bool:
        """Note so many bytes that came after so many seconds; True if a window has ended with too few."""
        self._waited += seconds
        self._got += nbytes
        if self._waited < self._window:
            return False
        slow = self._got < self._least
        self._waited, self._got = 0.0, 0
        return slow


class Rest:
    """How long to leave an origin alone that no way leads to: 2 s, then twice as long each time, at most 10 s."""

    def __init__(self) -> None:
        self.until = 0.0
        self._length = _FIRST_REST

    def failed(self, now: float) -> None:
        """No way led there. Those who set out together fail together, and that counts once."""
        if now >= self.until:
            self.until = now + self._length
            self._length = min(2 * self._length, _LONGEST_REST)

    def succeeded(self) -> None:
        """It answers again."""
        self.until, self._length = 0.0, _FIRST_REST
