"""Names and passwords in headers."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.plan.basic import Basic, parse_basic


def header(text: str, scheme: str = "Basic") -> str:
    """What a client would send."""
    return f"{scheme} {b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("text", "user", "password"),
    [("alice:secret", "alice", "secret"), ("alice:a:b", "alice", "a:b"), ("alice:", "alice", ""), ("ä:ö", "ä", "ö")],
)
@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC "])
def test_credentials(text: str, user: str, password: str, scheme: str) -> None:
    """The first colon separates the two; the scheme has no case."""
    assert parse_basic(header(text, scheme)) == Basic(user, password)


@pytest.mark.parametrize(
    "value",
    ["", "Basic", "Basic ", "Basic !!!", "Basic YQ", "Basic /w==", header("alice"), header("a\nb:c"), header("a:b\0"), header("a:b", "Bearer"),
     header("a:b") + ", " + header("c:d"), header("a:b", "NotBasic")],
)  # fmt: skip
def test_none(value: str) -> None:
    """What is not a name and a password is none."""
    assert parse_basic(value) is None


def test_secrets_are_not_shown() -> None:
    """A password is in no log by accident."""
    assert "secret" not in repr(parse_basic(header("alice:secret")))


@given(st.text(), st.binary())
def test_anything(text: str, data: bytes) -> None:
    """Any header is credentials or none, never an error."""
    for value in (text, "Basic " + text, "Basic " + b64encode(data).decode()):
        found = parse_basic(value)
        assert found is None or ":" not in found.user
