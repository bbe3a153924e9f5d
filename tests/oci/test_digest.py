"""Digests: parsed strictly, equal to what they hash."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.errors import DigestInvalid
from registry_proxy.oci.digest import Digest


@given(st.binary(max_size=200), st.sampled_from(["sha256", "sha512"]))
def test_a_digest_names_its_bytes(data: bytes, algorithm: str) -> None:
    """The digest of bytes survives its text form, matches them, and agrees with a running hash fed in two pieces."""
    digest = Digest.of(data, algorithm)
    assert Digest.parse(str(digest)) == digest
    assert digest.hex == hashlib.new(algorithm, data).hexdigest()
    assert digest.matches(data)
    assert not digest.matches(data + b"x")
    hasher = digest.hasher()
    hasher.update(data[:7])
    hasher.update(data[7:])
    assert hasher.hexdigest() == digest.hex


@pytest.mark.parametrize(
    "text",
    [
        "", "sha256", "sha256:", "sha256:abc", "sha256:" + 64 * "A", "sha256:" + 64 * "g", "sha256:" + 65 * "a",
        "sha512:" + 64 * "a", "md5:" + 32 * "a", "sha256:" + 64 * "a" + "\n", "sha256:" + 64 * "\u0661", ":" + 64 * "a",
        "sha256:../" + 61 * "a",
    ],
)  # fmt: skip
def test_what_is_no_digest(text: str) -> None:
    """Other algorithms, wrong lengths, upper case and anything else is refused."""
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


@given(st.text(max_size=80))
def test_any_text_is_a_digest_or_refused(text: str) -> None:
    """Nothing but DigestInvalid is ever raised, and what is taken has only hexadecimal digits after its algorithm."""
    try:
        digest = Digest.parse(text)
    except DigestInvalid:
        return
    assert set(digest.hex) <= set("0123456789abcdef")
