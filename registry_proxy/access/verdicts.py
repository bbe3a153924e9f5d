"""What upstreams have said lately about what clients showed. Never what they showed: only a hash of it, under a key of this process."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from copy import copy
from typing import Final, TypeVar

from registry_proxy.errors import Denied
from registry_proxy.oci.names import Repository

_MOST: Final = 65536
"""Verdicts, and ends of tokens, that are kept."""

K = TypeVar("K")
V = TypeVar("V")
_Key = tuple[bytes, Hashable]


class Verdicts:
    """Verdicts of one upstream. ``clock``: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._secret = os.urandom(32)
        self._yes: OrderedDict[_Key, float] = OrderedDict()
        self._no: OrderedDict[_Key, tuple[Denied, float]] = OrderedDict()
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def who(self, authorization: str | None) -> bytes:
        """What stands for a header here."""
        if authorization is None:
            return b""
        return hashlib.blake2b(authorization.encode("utf-8", "surrogateescape"), key=self._secret).digest()

    def yes(self, authorization: str | None, repository: Repository | None) -> bool:
        """True if the last word on this was yes, and holds."""
        return self._yes.get((self.who(authorization), repository), 0.0) > self._clock()

    def no(self, authorization: str | None, about: Hashable) -> Denied | None:
        """The last refusal of this, if it holds. ``about``: a repository, or the one thing there that it was about."""
        refusal, until = self._no.get((self.who(authorization), about), (None, 0.0))
        return copy(refusal) if until > self._clock() else None

    def allow(self, authorization: str | None, repository: Repository | None, life: float) -> None:
        """It was admitted to the repository; that holds for so many seconds."""
        _keep(self._yes, (self.who(authorization), repository), self._clock() + life)

    def deny(self, authorization: str | None, about: Hashable, refusal: Denied, life: float) -> None:
        """It was refused; that holds for so many seconds. Only what the refusal says is kept: its traceback has all that was in hand."""
        _keep(self._no, (self.who(authorization), about), (copy(refusal), self._clock() + life))

    def drop(self, repository: Repository | None, authorization: str | None) -> None:
        """No yes to this holds any longer."""
        self._yes.pop((self.who(authorization), repository), None)

    def forget(self) -> None:
        """Nothing that was said holds any longer."""
        self._yes.clear()
        self._no.clear()

    def end(self, authorization: str | None) -> float | None:
        """When the token in a header ends, by the clock, if its giver has said so here."""
        return self._ends.get(self.who(authorization))

    def ends(self, authorization: str, life: float) -> None:
        """The token in this header was given for so many seconds."""
        _keep(self._ends, self.who(authorization), self._clock() + life)


def _keep(kept: OrderedDict[K, V], key: K, value: V) -> None:
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > _MOST:
        kept.popitem(last=False)
