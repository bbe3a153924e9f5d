from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.errors import (
    AccountRefused,
    BlobUnknown,
    Denied,
    NameUnknown,
    RegistryProxyError,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamDown,
    UpstreamFailed,
    UpstreamUnreachable,
)
from registry_proxy.plan.ratelimit import RateLimit, parse_rate_limit
from registry_proxy.plan.refusals import may_pass, parse_retry_after, refusal, weight

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "body", "account", "expected"),
    [
        (404, b"", False, BlobUnknown),
        (410, b"", False, BlobUnknown),
        (404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}', False, NameUnknown),
        (404, b'{"errors":"NAME_UNKNOWN"}', False, BlobUnknown),
        (401, b"", False, Denied),
        (403, b"", False, Denied),
        (401, b"", True, AccountRefused),
        (403, b"", True, AccountRefused),
        (429, b"", False, UpstreamBusy),
        (408, b"", False, UpstreamFailed),
        (500, b"", False, UpstreamFailed),
        (503, b"", True, UpstreamFailed),
        (407, b"", False, UpstreamUnreachable),
        (302, b"", False, UpstreamBroken),
        (204, b"", False, UpstreamBroken),
    ],
)
def test_statuses(status: int, body: bytes, account: bool, expected: type[RegistryProxyError]) -> None:
    """Each status is told apart: an answer about content or client, or a kind of trouble."""
    assert type(refusal(status, body, None, subject="x", missing=BlobUnknown, account=account)) is expected


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    """A Retry-After may be seconds or a date; anything else says nothing."""
    assert parse_retry_after(header, NOW) == seconds


@given(
    st.text(max_size=40)
    | st.from_regex(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", fullmatch=True)
)
def test_any_retry_after_is_read_or_ignored(header: str) -> None:
    """No Retry-After whatever raises or asks for less than nothing."""
    seconds = parse_retry_after(header, NOW)
    assert seconds is None or seconds >= 0


def test_what_may_pass() -> None:
    """Failures that may pass are worth another try, a long rate limit and a refused account are not."""
    assert may_pass(UpstreamBusy("", 3.0)) == 3.0
    assert may_pass(UpstreamBusy("", 60.0)) is False
    assert may_pass(UpstreamFailed("")) is True
    assert may_pass(UpstreamDown("")) is True
    assert may_pass(AccountRefused("")) is False
    assert may_pass(UpstreamBroken("")) is False
    assert may_pass(BlobUnknown("")) is False
    assert may_pass(KeyError("")) is False


def test_trouble_outweighs_answers() -> None:
    """Among the failures of several mirrors trouble counts most, then a refusal, and "not there" least."""
    assert weight(UpstreamFailed("")) > weight(Denied("")) > weight(BlobUnknown("")) == weight(NameUnknown(""))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}, RateLimit(100, 76, 21600)),
        ({"ratelimit-limit": "100", "ratelimit-remaining": "0"}, RateLimit(100, 0, None)),
        ({"ratelimit-limit": "100;w=21600"}, None),
        ({"ratelimit-limit": "many", "ratelimit-remaining": "1"}, None),
    ],
)
def test_rate_limit(headers: dict[str, str], expected: RateLimit | None) -> None:
    """Docker Hub's headers are understood, others are not guessed at."""
    assert parse_rate_limit(headers) == expected
