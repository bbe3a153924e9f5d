"""Letters of a CVMFS repository: manifest, whitelist, certificate, blacklist. Hashes are put right, so that what is behind them is reached."""

import contextlib
import hashlib
import zlib
from functools import cache

from cryptography.hazmat.primitives.asymmetric import rsa

from registry_proxy.errors import RepositoryRefused
from registry_proxy.sources.cvmfs.hashes import ContentHash
from registry_proxy.sources.cvmfs.letters import (
    Blacklist,
    Letter,
    Manifest,
    Whitelist,
    inflate_certificate,
    load_certificate,
)

NAME = "images.example.org"


def run(data: bytes) -> None:
    """Each is read or refused, as it stands and with a hash that is right."""
    for letter in (data, _hashed(data)):
        with contextlib.suppress(RepositoryRefused):
            Letter.parse(letter, "letter").lines("letter")
        with contextlib.suppress(RepositoryRefused):
            assert Manifest.parse(letter, NAME).revision >= 0
        with contextlib.suppress(RepositoryRefused):
            Whitelist.parse(letter, NAME, (_key(),))
    with contextlib.suppress(RepositoryRefused):
        load_certificate(inflate_certificate(data))
    with contextlib.suppress(RepositoryRefused):
        load_certificate(inflate_certificate(zlib.compress(data, 1)))
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(RepositoryRefused):
        Blacklist.parse(text)
    for parse in (ContentHash.parse, ContentHash.parse_fingerprint):
        with contextlib.suppress(ValueError):
            parse(text)


def _hashed(body: bytes) -> bytes:
    body = body if body.endswith(b"\n") else body + b"\n"
    return body + b"--\n" + hashlib.sha1(body).hexdigest().encode() + b"\n" + bytes(256)


@cache
def _key() -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(65537, (1 << 2047) + 9).public_key()
