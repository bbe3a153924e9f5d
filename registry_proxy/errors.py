"""The taxonomy of failures, and the one table that turns each into an answer.

A class stands for one thing that a caller could do differently. Rooms raise what happened; ``web`` alone looks into
``ANSWERS`` to say it to a client (OCI distribution-spec, "Error Codes").
"""

from dataclasses import dataclass
from typing import Final


class RegistryProxyError(Exception):
    """Anything this project raises on purpose. Its text is meant for a person."""


# --- what the client got wrong -----------------------------------------------------------------------------------------


class BadRequest(RegistryProxyError):
    """The request cannot be understood (path, query or header)."""


class NameInvalid(BadRequest):
    """A repository or source host name is malformed."""


class DigestInvalid(BadRequest):
    """A digest is malformed or of an algorithm that is not supported."""


class ManifestInvalid(RegistryProxyError):
    """A manifest cannot be parsed or does not hash to its digest."""


class RangeTooLarge(BadRequest):
    """The spans asked for sum to more than the content (RFC 9110 §14.2 lets a server refuse such a request)."""


class RangeUnsatisfiable(RegistryProxyError):
    """No range asked for touches the content. ``size``: bytes of the whole content."""

    def __init__(self, size: int) -> None:
        super().__init__(f"no range asked for lies within the {size} bytes")
        self.size = size


class WriteRefused(RegistryProxyError):
    """The proxy is read-only."""


class TooManyRequests(RegistryProxyError):
    """The client asks faster than it may. ``retry_after``: seconds to wait."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


# --- what is not there, or not for this client -------------------------------------------------------------------------


class NoSuchEndpoint(RegistryProxyError):
    """The path is none of the API's."""


class UnknownUpstream(RegistryProxyError):
    """The source host is not in the configured map."""


class NameUnknown(RegistryProxyError):
    """The upstream knows no such repository."""


class ManifestUnknown(RegistryProxyError):
    """The upstream knows no such manifest or tag."""


class BlobUnknown(RegistryProxyError):
    """The upstream knows no such blob in this repository."""


class Denied(RegistryProxyError):
    """The upstream refuses the client's credential (or its lack of one)."""


class LoginNeeded(Denied):
    """The client has to show who it is: by a token from the proxy's own token realm, or, with ``basic``, by a name and password
    for that realm. ``service``: the upstream's own, for its token server."""

    def __init__(self, message: str, *, basic: str | None = None, service: str = "") -> None:
        super().__init__(message)
        self.basic = basic
        self.service = service


class CatalogDisabled(RegistryProxyError):
    """``_catalog`` is not configured."""


# --- what went wrong on the way -----------------------------------------------------------------------------------------


class Trouble(RegistryProxyError):
    """The next source, or a stale copy, should answer instead (docs/architecture.md, "Trouble")."""


class UpstreamUnreachable(Trouble):
    """No connection, a cut one, or no answer in time."""


class UpstreamDown(UpstreamUnreachable):
    """No connection could be made at all: the upstream has not seen the request."""


class UpstreamBroken(Trouble):
    """The upstream answered nonsense: wrong size, wrong digest, wrong Content-Range, short or endless body, not a registry."""


class SizeContested(UpstreamBroken):
    """The upstream has sent a blob of another size than it, or its manifest, has named before: one of the two is wrong."""


class UpstreamFailed(Trouble):
    """The upstream answered 5xx or 408, or refused the proxy's own account."""


class AccountRefused(UpstreamFailed):
    """The upstream refuses the proxy's own account."""


class RepositoryRefused(Trouble):
    """A CVMFS repository's letters cannot be believed: signature, fingerprint, expiry, blacklist, roll-back."""


class UpstreamBusy(Trouble):
    """The upstream's rate limit is spent. ``retry_after``: seconds to wait."""

    def __init__(self, message: str, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NoVerdict(Trouble):
    """The upstream cannot be asked whether this client may read. ``retry_after``: seconds to wait."""

    def __init__(self, message: str, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Offline(Trouble):
    """The offline switch is on and the cache does not have the answer."""


class NotSoon(RegistryProxyError):
    """The bytes cannot be had within the patience limit. ``retry_after``: seconds to wait."""

    def __init__(self, message: str, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(RegistryProxyError):
    """This instance answers as many requests as it can. ``retry_after``: seconds to wait."""

    def __init__(self, message: str, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LoopDetected(RegistryProxyError):
    """A request for a chunk came back to an instance that had passed it on: instances are each other's parents."""


class NoRoom(RegistryProxyError):
    """The store cannot hold what a range-less upstream would have to deliver first."""


class ContentCorrupt(Trouble):
    """The bytes fetched do not hash to the digest asked for; all of them were dropped."""


class StoreUnusable(RegistryProxyError):
    """The store's directory cannot be used: locked, on a network file system, of another format version."""


class StoreTrouble(RegistryProxyError):
    """The store did not take a chunk; whoever has its bytes serves them from memory. No client ever sees this."""


class StoreFull(StoreTrouble):
    """No space: the disk is full, or more was written than had been reserved."""


class StoreBroken(StoreTrouble):
    """The disk is read-only, fails, or takes too long."""


class TierFailed(RegistryProxyError):
    """A tier beside the store does not give a blob's bytes: the next place answers instead. No client ever sees this."""


class PublishFailed(RegistryProxyError):
    """What was to be published is wrong, or the tree cannot be written."""


class ConfigInvalid(RegistryProxyError):
    """The configuration is wrong; the text names the file and the key."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client is told: an HTTP status and an OCI error code (None: a plain body, the spec has no code for it)."""

    status: int
    code: str | None


ANSWERS: Final[dict[type[RegistryProxyError], Answer]] = {
    BadRequest: Answer(400, "UNSUPPORTED"),
    NameInvalid: Answer(400, "NAME_INVALID"),
    DigestInvalid: Answer(400, "DIGEST_INVALID"),
    ManifestInvalid: Answer(400, "MANIFEST_INVALID"),
    RangeTooLarge: Answer(400, "UNSUPPORTED"),
    RangeUnsatisfiable: Answer(416, None),
    WriteRefused: Answer(405, "UNSUPPORTED"),
    TooManyRequests: Answer(429, "TOOMANYREQUESTS"),
    NoSuchEndpoint: Answer(404, "UNSUPPORTED"),
    UnknownUpstream: Answer(404, "NAME_UNKNOWN"),
    NameUnknown: Answer(404, "NAME_UNKNOWN"),
    ManifestUnknown: Answer(404, "MANIFEST_UNKNOWN"),
    BlobUnknown: Answer(404, "BLOB_UNKNOWN"),
    Denied: Answer(403, "DENIED"),
    LoginNeeded: Answer(401, "UNAUTHORIZED"),
    CatalogDisabled: Answer(404, "UNSUPPORTED"),
    Trouble: Answer(502, "UNKNOWN"),
    UpstreamUnreachable: Answer(502, "UNKNOWN"),
    UpstreamDown: Answer(502, "UNKNOWN"),
    UpstreamBroken: Answer(502, "UNKNOWN"),
    SizeContested: Answer(502, "UNKNOWN"),
    UpstreamFailed: Answer(502, "UNKNOWN"),
    AccountRefused: Answer(502, "UNKNOWN"),
    RepositoryRefused: Answer(502, "UNKNOWN"),
    UpstreamBusy: Answer(429, "TOOMANYREQUESTS"),
    NoVerdict: Answer(503, "UNKNOWN"),
    Offline: Answer(503, "UNKNOWN"),
    NotSoon: Answer(503, "TOOMANYREQUESTS"),
    Overloaded: Answer(503, "TOOMANYREQUESTS"),
    LoopDetected: Answer(508, "UNKNOWN"),
    NoRoom: Answer(503, "UNKNOWN"),
    ContentCorrupt: Answer(502, "UNKNOWN"),
    StoreUnusable: Answer(503, "UNKNOWN"),
    StoreTrouble: Answer(503, "UNKNOWN"),
    StoreFull: Answer(503, "UNKNOWN"),
    StoreBroken: Answer(503, "UNKNOWN"),
    TierFailed: Answer(503, "UNKNOWN"),
    PublishFailed: Answer(500, "UNKNOWN"),
    ConfigInvalid: Answer(500, "UNKNOWN"),
}


def answer(error: RegistryProxyError) -> Answer:
    """The row of ``ANSWERS`` for this failure, or for its nearest ancestor."""
    for kind in type(error).__mro__:
        row = ANSWERS.get(kind)
        if row is not None:
            return row
    return Answer(500, "UNKNOWN")
