"""Passwords, checked one at a time in a thread: to check one is meant to be slow, and nobody may make others wait for long.

===========================  =====================================================================================
a password that              costs
===========================  =====================================================================================
was right a moment ago       a look-up under a keyed hash of the header; the password itself is kept nowhere
was wrong a moment ago       the same: who repeats a mistake blocks nobody
is being checked             to wait for that check
is new                       its place in the line; a client that was wrong too often has to pause first
===========================  =====================================================================================
"""

import asyncio
import secrets
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from hashlib import blake2b
from time import monotonic
from typing import Final

import structlog

from registry_proxy.access.users import Users
from registry_proxy.config import Config
from registry_proxy.errors import TooManyRequests
from registry_proxy.net.single import SingleFlight
from registry_proxy.plan.attempts import Attempts
from registry_proxy.plan.basic import Basic, parse_basic
from registry_proxy.plan.users import User

log = structlog.get_logger()

LINE: Final = 256
"""Passwords that may wait to be checked."""

LINE_OF_ONE: Final = 8
"""Of these, from one client address."""

_PATIENCE: Final = 10.0
"""Seconds that one waits."""

_KEPT: Final = 4096
"""Answers of each kind that are remembered."""

_Key = bytes


class _Memory:
    """Answers that live for a while, the newest ``_KEPT``."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Key, tuple[User | None, float]] = OrderedDict()

    def get(self, key: _Key, now: float) -> tuple[User | None, float] | None:
        kept = self._kept.get(key)
        return kept if kept is not None and kept[1] > now else None

    def put(self, key: _Key, user: User | None, until: float) -> None:
        self._kept[key] = user, until
        self._kept.move_to_end(key)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        self._kept.clear()


class Passwords:
    """Says whose Authorization headers are. ``life``: seconds that a right one may go unused before it is checked again, and that a wrong
    one is remembered: only other users would make another answer of either; ``refused``: called for each that had to pause."""

    def __init__(
        self, users: Users, life: float, refused: Callable[[], None], clock: Callable[[], float] = monotonic
    ) -> None:
        self.life = life
        self._users = users
        self._refused = refused
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._right, self._wrong = _Memory(), _Memory()
        self._attempts = Attempts()
        self._checking: SingleFlight[_Key, User | None] = SingleFlight()
        self._line: Counter[str] = Counter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="passwords")

    async def close(self) -> None:
        """End the thread, after the password that it is at."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    def at_hand(self, authorization: str) -> User | None:
        """Whose header this is, if it was found right, and used a moment ago."""
        return self._known(self._key(authorization), self._clock())

    async def check(self, authorization: str, client: str) -> User | None:
        """Whose header this is; None: nobody's. ``client``: who sends it. Raises TooManyRequests."""
        key, now = self._key(authorization), self._clock()
        user = self._known(key, now)
        if user is not None or self._wrong.get(key, now) is not None:
            return user
        claimed = parse_basic(authorization)
        if claimed is None:
            return None
        return await self._checking.do(key, lambda: self._check(key, claimed, client))

    def apply(self, config: Config) -> None:
        """Know these users, if they are others than before nothing of what was known, and hold that policy."""
        self.life = config.policy.verdict
        if config.htpasswd != self._users.hashes:
            self._users = Users(config.htpasswd)
            self._right.clear()
            self._wrong.clear()

    def _known(self, key: _Key, now: float) -> User | None:
        kept = self._right.get(key, now)
        if kept is None:
            return None
        self._right.put(key, kept[0], now + self.life)
        return kept[0]

    async def _check(self, key: _Key, claimed: Basic, client: str) -> User | None:
        self._admit(client)
        self._line[client] += 1
        try:
            async with asyncio.timeout(_PATIENCE):
                user = await self._compared(claimed)
        except TimeoutError:
            raise self._too_many("too many passwords are being checked", _PATIENCE) from None
        finally:
            self._line[client] -= 1
            if not self._line[client]:
                del self._line[client]
        now = self._clock()
        if user is None:
            self._attempts.failed(client, now)
            log.info("login.refused", client=client)
        (self._wrong if user is None else self._right).put(key, user, now + self.life)
        return user

    async def _compared(self, claimed: Basic) -> User | None:
        """By the users as they are when the answer is there."""
        while True:
            users = self._users
            user = await asyncio.get_running_loop().run_in_executor(self._thread, users.check, claimed)
            if users is self._users:
                return user

    def _admit(self, client: str) -> None:
        if wait := self._attempts.wait(client, self._clock()):
            raise self._too_many("too many wrong passwords from this address", wait)
        if self._line.total() >= LINE or self._line[client] >= LINE_OF_ONE:
            raise self._too_many("too many passwords are being checked", 1)

    def _too_many(self, message: str, retry_after: float) -> TooManyRequests:
        self._refused()
        return TooManyRequests(message, retry_after)

    def _key(self, authorization: str) -> _Key:
        return blake2b(authorization.encode("utf-8", "surrogateescape"), key=self._secret, digest_size=32).digest()


@asynccontextmanager
async def opened(config: Config, refused: Callable[[], None]) -> AsyncIterator[Passwords]:
    """The passwords of the configured users. ``refused``: as ``Passwords`` has it."""
    passwords = Passwords(Users(config.htpasswd), config.policy.verdict, refused)
    try:
        yield passwords
    finally:
        await passwords.close()
