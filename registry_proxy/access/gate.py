"""What stands before a guarded upstream: it says whether a caller may read."""

from dataclasses import dataclass
from typing import Protocol

from registry_proxy.access.caller import Caller
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Reference, Repository


@dataclass(frozen=True, slots=True)
class Subject:
    """What is asked for: a manifest or a blob of a repository, else the repository as such (tags), else, with no
    repository, the upstream as such (``/v2/``). ``catalog``: the names of all its repositories."""

    repository: Repository | None = None
    manifest: Reference | None = None
    blob: Digest | None = None
    catalog: bool = False

    @property
    def is_list(self) -> bool:
        """True for the tags of a repository: registries let some see those who may not pull (``ecr:ListImages``, ``metadata/read``)."""
        return self.repository is not None and self.manifest is None and self.blob is None


class Gate(Protocol):
    """The gate of one upstream."""

    def at_hand(self, caller: Caller, repository: Repository | None) -> bool:
        """True if it is known, without asking anybody, that the caller may read this repository. Cheap: every hit asks."""

    async def admit(self, caller: Caller, subject: Subject) -> float:
        """Seconds for which the yes to this caller holds for the whole repository; none if it was about its tags alone.

        Raises LoginNeeded, Denied, what the upstream says is not there (ManifestUnknown, BlobUnknown, NameUnknown), or Trouble where
        a verdict cannot be had: that is never a yes.
        """


class TokenRealm(Protocol):
    """Where the clients of one upstream get their tokens."""

    async def token(self, caller: Caller, query: str) -> bytes:
        """The JSON that answers a request for a token with this query. Raises LoginNeeded, Denied, NoSuchEndpoint or Trouble."""
