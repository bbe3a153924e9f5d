"""What an upstream's status means, and which of its refusals may pass if we wait.

404, 410 and an anonymous 401 or 403 are answers; everything else is trouble (docs/architecture.md, "Trouble").
"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

from registry_proxy.errors import (
    AccountRefused,
    Denied,
    NameUnknown,
    RegistryProxyError,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamFailed,
    UpstreamUnreachable,
)
from registry_proxy.oci.foreign import Unreadable, decode

MAX_RETRY_AFTER = 10.0
"""Seconds that an exchange waits for a busy upstream by itself; a client is told to come back for anything longer."""


class _Error(msgspec.Struct):
    code: str = ""


class _Errors(msgspec.Struct):
    errors: list[_Error] = []


def refusal(
    status: int,
    body: bytes,
    retry_after: float | None,
    *,
    subject: str,
    missing: type[RegistryProxyError],
    account: bool,
) -> RegistryProxyError:
    """What to raise for a status that is not an answer to the request.

    ``subject``: what was asked of whom, for the text; ``missing``: what a 404 means; ``account``: our own account was used.
    """
    if status in {404, 410}:
        return NameUnknown(subject) if "NAME_UNKNOWN" in _codes(body) else missing(subject)
    if status in {401, 403}:
        return AccountRefused(f"{subject}: {status} to our account") if account else Denied(f"{subject}: {status}")
    if status == 429:
        return UpstreamBusy(f"{subject}: too many requests", 5.0 if retry_after is None else retry_after)
    if status == 407:
        return UpstreamUnreachable(f"{subject}: the forward proxy wants a password")
    if status == 408 or status >= 500:
        return UpstreamFailed(f"{subject}: {status}")
    return UpstreamBroken(f"{subject}: unexpected status {status}")


def _codes(body: bytes) -> set[str]:
    """The OCI error codes in a body (distribution-spec, "Error Codes"); none if it is something else."""
    try:
        return {error.code for error in decode(body, _Errors).errors}
    except Unreadable:
        return set()


def parse_retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110 §10.2.3: a number or a date); None if it says nothing."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max((when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds(), 0.0)


def may_pass(error: Exception) -> bool | float:
    """True if trying again soon may help; a number: after so many seconds."""
    match error:
        case UpstreamBusy():
            return error.retry_after if error.retry_after <= MAX_RETRY_AFTER else False
        case AccountRefused():
            return False
        case UpstreamUnreachable() | UpstreamFailed():
            return True
        case _:
            return False


def weight(error: RegistryProxyError) -> int:
    """Which of several mirrors' failures counts; more is heavier.

    "Not there" is believed only if every mirror says so, and a refusal is an answer where trouble is none.
    """
    return (
        2
        if isinstance(error, (UpstreamBusy, UpstreamBroken, UpstreamFailed, UpstreamUnreachable))
        else int(isinstance(error, Denied))
    )
