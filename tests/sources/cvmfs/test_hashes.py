"""Content hashes, their texts and places; a catalog's keys."""

import hashlib
import struct
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.errors import UpstreamBroken
from registry_proxy.sources.cvmfs.catalog import key_of
from registry_proxy.sources.cvmfs.hashes import Algorithm, ContentHash
from tests.fakes.cvmfs import content_hash

HASHES = st.builds(ContentHash, st.sampled_from(list(Algorithm)), st.binary(min_size=20, max_size=20))


@given(HASHES)
def test_texts_are_read_back(content: ContentHash) -> None:
    """A hash and its text, a hash and its fingerprint say the same."""
    assert ContentHash.parse(str(content)) == content
    fingerprint = content.digest.hex(":").upper() + content.algorithm.tag.upper()
    assert ContentHash.parse_fingerprint(fingerprint) == content


@given(HASHES, st.sampled_from(["", "C", "X", "P"]))
def test_places(content: ContentHash, suffix: str) -> None:
    """Two digits, the others with the algorithm's tag, the suffix last."""
    assert (
        content.path(suffix)
        == f"data/{content.digest.hex()[:2]}/{content.digest.hex()[2:]}{content.algorithm.tag}{suffix}"
    )


@given(st.text(max_size=60))
def test_other_texts_are_no_hashes(text: str) -> None:
    """Noise is refused with a ValueError."""
    for parse in (ContentHash.parse, ContentHash.parse_fingerprint):
        with pytest.raises(ValueError, match="not a"):
            parse(text)


@given(st.binary(max_size=300), st.sampled_from(list(Algorithm)))
def test_algorithms(data: bytes, algorithm: Algorithm) -> None:
    """Each algorithm is the one of its name."""
    assert ContentHash.of(data, algorithm).digest == content_hash(data, algorithm.tag)


@given(st.binary(max_size=300))
def test_ripemd160_without_openssl(data: bytes) -> None:
    """Where OpenSSL has no RIPEMD-160, the optional library gives the same."""
    wanted = ContentHash.of(data, Algorithm.RMD160)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashlib, "new", _no_ripemd160)
        assert ContentHash.of(data, Algorithm.RMD160) == wanted


def test_no_ripemd160_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """With neither, the failure says what to install."""
    monkeypatch.setattr(hashlib, "new", _no_ripemd160)
    monkeypatch.setitem(sys.modules, "Crypto.Hash", None)
    with pytest.raises(UpstreamBroken, match=r"registry-proxy\[ripemd160\]"):
        ContentHash.of(b"", Algorithm.RMD160)


def _no_ripemd160(*_: Any, **__: Any) -> Any:
    raise ValueError("unsupported hash type ripemd160")


@given(st.text())
def test_keys_are_two_halves_of_an_md5(path: str) -> None:
    """Put together again, little-endian, the halves are the MD5 of the path."""
    assert struct.pack("<qq", *key_of(path)) == hashlib.md5(path.encode()).digest()


def test_known_keys() -> None:
    """The root's key, from its MD5 d41d8cd98f00b204e9800998ecf8427e."""
    assert key_of("") == (0x04B2008FD98C1DD4, 0x7E42F8EC980980E9)
