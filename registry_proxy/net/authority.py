"""What an upstream is shown so that it answers: an account of the proxy's own (``auth``), or what its clients came with (``wallet``)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from registry_proxy.errors import Denied
from registry_proxy.oci.names import Repository
from registry_proxy.plan.challenges import Challenge
from registry_proxy.plan.origins import Origin


@dataclass(frozen=True, slots=True)
class Shown:
    """Exactly this Authorization, or none at all. ``client``: on whose behalf (see ``Caller.client``)."""

    authorization: str | None = field(repr=False)
    client: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 401 or 403 of a mirror itself. ``repository``: None where the request was about none; ``shown``: in vain."""

    mirror: Origin
    repository: Repository | None
    status: int
    challenges: Sequence[Challenge]
    shown: Shown


class Authority(Protocol):
    """``tries``: how often one request may be made, with something else to show each time."""

    tries: int

    def scheme(self, mirror: Origin) -> str | None:
        """The scheme that a mirror asked for (``basic``, ``bearer``); None while it has asked for nothing."""

    def uses_account(self, repository: Repository | None) -> bool:
        """True if the proxy's own account is meant for this repository (None: for a request that is about none)."""

    async def header(self, mirror: Origin, repository: Repository | None) -> str | None:
        """The Authorization that a mirror will want to see; None for none. Raises Denied or Trouble if it cannot be had."""

    def learn(self, refusal: Refusal) -> bool:
        """Take note of a refusal; False if there is nothing else to show."""

    def denial(self, refusal: Refusal, subject: str) -> Denied | None:
        """What a client is told of a refusal of ``subject``; None: what ``plan.refusals`` says."""
