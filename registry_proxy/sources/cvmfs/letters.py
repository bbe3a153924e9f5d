"""The signed letters of a repository: manifest, whitelist, certificate, and the site's own blacklist.

Every function takes bytes as they came and returns what they say, or raises RepositoryRefused with the reason. The order of
the checks is the official client's (cvmfs ``manifest_fetch.cc``, ``signature.cc``, ``whitelist.cc``).
"""

import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from registry_proxy.errors import ConfigInvalid, RepositoryRefused
from registry_proxy.sources.cvmfs.hashes import ContentHash

MAX_LETTER = 1 << 20
"""Bytes: no manifest, whitelist or certificate may be longer (cvmfs ``sink_mem.h``)."""

_ROOT_PATH = hashlib.md5(b"", usedforsecurity=False).hexdigest()
_EXPIRY = re.compile(r"E(\d{4})(\d{2})(\d{2})(\d{2})\d{4}\Z", re.ASCII)
_NUMBER = re.compile(r"\d{1,18}\Z", re.ASCII)
_TOO_OLD = re.compile(r"<\s*(\S+)\s+(\d{1,18})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Letter:
    """``body``: what is signed, final newline included; ``hash_line``: the text that the signature is over."""

    body: bytes
    hash_line: bytes
    signature: bytes

    @classmethod
    def parse(cls, data: bytes, what: str) -> "Letter":
        """Cut a letter at its first ``--`` line and check its own hash; raises RepositoryRefused."""
        if len(data) > MAX_LETTER:
            raise RepositoryRefused(f"the {what} has more than {MAX_LETTER} bytes")
        cut = data.find(b"\n--\n")
        if cut < 0:
            raise RepositoryRefused(f"the {what} is not signed")
        body, rest = data[: cut + 1], data[cut + 4 :]
        line, newline, signature = rest.partition(b"\n")
        try:
            said = ContentHash.parse(line.decode("ascii"))
        except ValueError:
            raise RepositoryRefused(f"the {what} has no hash") from None
        if not newline or ContentHash.of(body, said.algorithm) != said:
            raise RepositoryRefused(f"the {what} does not hash to what it says")
        return cls(body, line, signature)

    def lines(self, what: str) -> list[str]:
        """The lines of the body; raises RepositoryRefused if they are no text."""
        try:
            return self.body.decode().split("\n")
        except UnicodeDecodeError:
            raise RepositoryRefused(f"the {what} is not text") from None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``.cvmfspublished`` says. Its own hash is right; its signature is checked by ``check``, before anything is believed.

    ``root_size``: bytes of the root catalog as SQLite; None if not said. ``published``: seconds since the epoch.
    """

    letter: Letter
    root: ContentHash
    root_size: int | None
    certificate: ContentHash
    ttl: int
    revision: int
    published: int
    alternative: bool

    @classmethod
    def parse(cls, data: bytes, repository: str) -> "Manifest":
        """Read a manifest of this repository; raises RepositoryRefused."""
        letter = Letter.parse(data, "manifest")
        fields = {line[0]: line[1:] for line in letter.lines("manifest") if line}
        if fields.get("N") != repository:
            raise RepositoryRefused(f"the manifest is that of {fields.get('N', '')[:80]!r}, not of {repository}")
        if fields.get("R") != _ROOT_PATH:
            raise RepositoryRefused("the manifest is not that of a whole repository")
        return cls(
            letter,
            root=_hash(fields, "C"),
            root_size=(_number(fields, "B") or None) if "B" in fields else None,
            certificate=_hash(fields, "X"),
            ttl=_number(fields, "D"),
            revision=_number(fields, "S"),
            published=_number(fields, "T") if "T" in fields else 0,
            alternative=fields.get("A") == "yes",
        )

    @property
    def age(self) -> tuple[int, int]:
        """Later manifests are greater."""
        return self.published, self.revision


@dataclass(frozen=True, slots=True)
class Whitelist:
    """The certificates that may sign a repository's manifests until ``expires`` (seconds since the epoch)."""

    expires: float
    fingerprints: frozenset[ContentHash]

    @classmethod
    def parse(cls, data: bytes, repository: str, keys: Sequence[RSAPublicKey]) -> "Whitelist":
        """Read a whitelist signed by one of the master keys; raises RepositoryRefused. Whoever uses it looks at ``expires``."""
        letter = Letter.parse(data, "whitelist")
        if not any(_signed_by(key, letter) for key in keys):
            raise RepositoryRefused("the whitelist is signed by none of the master keys")
        lines = letter.lines("whitelist")
        if len(lines) < 3 or lines[2] != f"N{repository}":
            raise RepositoryRefused(f"the whitelist is not that of {repository}")
        rest = lines[3:]
        for line in rest[:2]:
            if line in {"Vpkcs7", "Wcachain"}:
                raise RepositoryRefused(f"the whitelist asks for a verification ({line[1:]}) that is not supported")
        return cls(_expiry(lines[1]), frozenset(filter(None, map(_fingerprint, rest))))


@dataclass(frozen=True, slots=True)
class Blacklist:
    """Certificates that must not be trusted whatever a whitelist says, and the lowest revision that may be, by repository."""

    fingerprints: frozenset[ContentHash] = frozenset()
    revisions: tuple[tuple[str, int], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Blacklist":
        """Read a blacklist file; raises RepositoryRefused for a line that is neither, which must not be passed over."""
        fingerprints, revisions = set(), []
        for number, line in enumerate(text.splitlines(), 1):
            words = line.partition("#")[0].strip()
            if not words:
                continue
            if match := _TOO_OLD.match(words):
                revisions.append((match[1], int(match[2])))
            elif found := _fingerprint(words):
                fingerprints.add(found)
            else:
                raise RepositoryRefused(f"line {number} of the blacklist is neither a fingerprint nor a revision")
        return cls(frozenset(fingerprints), tuple(revisions))


def check(
    repository: str,
    manifest: Manifest,
    certificate: x509.Certificate,
    whitelist: Whitelist,
    blacklist: Blacklist,
    now: float,
) -> None:
    """Raise RepositoryRefused unless whitelist and certificate vouch for the manifest now. ``now``: seconds since the epoch."""
    if now >= whitelist.expires:
        raise RepositoryRefused("the whitelist has expired")
    if not any(_is_of(each, certificate) for each in whitelist.fingerprints):
        raise RepositoryRefused("the certificate is not on the whitelist")
    if any(_is_of(each, certificate) for each in blacklist.fingerprints):
        raise RepositoryRefused("the certificate is on the blacklist")
    for name, lowest in blacklist.revisions:
        if name == repository and manifest.revision < lowest:
            raise RepositoryRefused(f"revision {manifest.revision} is on the blacklist")
    key = certificate.public_key()
    if not isinstance(key, RSAPublicKey):
        raise RepositoryRefused("the certificate has no RSA key")
    try:
        key.verify(manifest.letter.signature, manifest.letter.hash_line, PKCS1v15(), SHA1())  # noqa: S303 (the format's)
    except InvalidSignature:
        raise RepositoryRefused("the manifest is not signed by its certificate") from None


def load_certificate(pem: bytes) -> x509.Certificate:
    """The certificate of a PEM text; raises RepositoryRefused."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RepositoryRefused(f"the certificate cannot be read: {str(error)[:160]}") from None


def load_key(pem: bytes, name: str) -> RSAPublicKey:
    """The master key of a PEM text; raises ConfigInvalid, which names it."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigInvalid(f"{name}: not a public key in PEM") from None
    if not isinstance(key, RSAPublicKey):
        raise ConfigInvalid(f"{name}: not an RSA key")
    return key


def inflate_certificate(data: bytes) -> bytes:
    """The PEM text of a certificate object; raises RepositoryRefused."""
    inflater = zlib.decompressobj()
    try:
        pem = inflater.decompress(data, MAX_LETTER)
    except zlib.error:
        raise RepositoryRefused("the certificate object is damaged") from None
    if not inflater.eof:
        raise RepositoryRefused("the certificate object is damaged or too long")
    return pem


def _signed_by(key: RSAPublicKey, letter: Letter) -> bool:
    """True if the raw PKCS #1 v1.5 block holds the hash line: master keys sign without DigestInfo."""
    try:
        return key.recover_data_from_signature(letter.signature, PKCS1v15(), None) == letter.hash_line
    except (InvalidSignature, ValueError):
        return False


def _is_of(fingerprint: ContentHash, certificate: x509.Certificate) -> bool:
    return ContentHash.of(certificate.public_bytes(Encoding.DER), fingerprint.algorithm) == fingerprint


def _fingerprint(line: str) -> ContentHash | None:
    """The fingerprint at the start of a line, before a blank or ``#``; None if it has none."""
    words = line.partition("#")[0].split()
    try:
        return ContentHash.parse_fingerprint(words[0]) if words else None
    except ValueError:
        return None


def _expiry(line: str) -> float:
    """Seconds since the epoch; only the hours count (cvmfs ``whitelist.cc``)."""
    match = _EXPIRY.match(line)
    try:
        if match is not None:
            year, month, day, hour = map(int, match.groups())
            return datetime(year, month, day, hour, tzinfo=UTC).timestamp()
    except ValueError:
        pass
    raise RepositoryRefused("the whitelist does not say when it expires")


def _hash(fields: dict[str, str], letter: str) -> ContentHash:
    try:
        return ContentHash.parse(fields.get(letter, ""))
    except ValueError:
        raise RepositoryRefused(f"the manifest has no hash under {letter}") from None


def _number(fields: dict[str, str], letter: str) -> int:
    text = fields.get(letter, "")
    if not _NUMBER.match(text):
        raise RepositoryRefused(f"the manifest has no number under {letter}")
    return int(text)
