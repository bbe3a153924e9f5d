"""Manifest, whitelist, certificate, blacklist: what is believed and what is not."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.errors import ConfigInvalid, RepositoryRefused
from registry_proxy.sources.cvmfs import letters
from registry_proxy.sources.cvmfs.hashes import Algorithm, ContentHash
from registry_proxy.sources.cvmfs.letters import Blacklist, Letter, Manifest, Whitelist, check
from tests.fakes.cvmfs import RMD160, SHA1, SHAKE128, Publisher, rsa_key

NOW = datetime.now(UTC).timestamp()
NOBODY = Blacklist()
MASTER = [rsa_key(0).public_key()]


def manifest(publisher: Publisher) -> Manifest:
    return Manifest.parse((publisher.root / ".cvmfspublished").read_bytes(), publisher.name)


def whitelist(publisher: Publisher) -> Whitelist:
    return Whitelist.parse((publisher.root / ".cvmfswhitelist").read_bytes(), publisher.name, MASTER)


def verify(publisher: Publisher, blacklist: Blacklist = NOBODY, now: float = NOW) -> None:
    check(publisher.name, manifest(publisher), publisher.certificate, whitelist(publisher), blacklist, now)


@pytest.mark.parametrize("tag", [SHA1, RMD160, SHAKE128])
def test_right_letters_are_believed(publisher: Publisher, tag: str) -> None:
    """Letters made with any of the algorithms vouch for their manifest."""
    publisher.tag = tag
    publisher.publish(ttl=99)
    verify(publisher)
    said = manifest(publisher)
    assert (said.revision, said.ttl, said.published, said.root.algorithm.tag) == (1, 99, publisher.published, tag)


def test_any_master_key_will_do(publisher: Publisher) -> None:
    """Of several configured keys, one must have signed the whitelist."""
    publisher.publish()
    data = (publisher.root / ".cvmfswhitelist").read_bytes()
    stranger = rsa_key(5).public_key()
    assert Whitelist.parse(data, publisher.name, [stranger, *MASTER]).fingerprints
    with pytest.raises(RepositoryRefused, match="none of the master keys"):
        Whitelist.parse(data, publisher.name, [stranger])


Change = Callable[[Publisher], None]
REFUSED: dict[str, tuple[Change, str]] = {
    "expired": (lambda it: it.write_whitelist(expires=datetime(2020, 1, 1, tzinfo=UTC)), "expired"),
    "no date": (lambda it: it.write_whitelist(expires=datetime(1, 1, 1, tzinfo=UTC)), "when it expires"),
    "stranger's whitelist": (lambda it: it.write_whitelist(master=5), "none of the master keys"),
    "another certificate": (
        lambda it: it.write_whitelist(fingerprints=[":".join(["AB"] * 20)]),
        "not on the whitelist",
    ),
    "nobody listed": (lambda it: it.write_whitelist(fingerprints=["# nobody"]), "not on the whitelist"),
    "pkcs7": (lambda it: it.write_whitelist(extra="Vpkcs7\n"), "not supported"),
    "chain": (lambda it: it.write_whitelist(extra="Vpkcs7\nWcachain\n"), "not supported"),
    "signed by another": (lambda it: it.publish(signer=5), "not signed by its certificate"),
    "subtree": (lambda it: it.publish(extra="R00000000000000000000000000000000\n"), "whole repository"),
    "no hash": (lambda it: it.publish(extra="Cnone\n"), "no hash under C"),
    "no number": (lambda it: it.publish(extra="S-1\n"), "no number under S"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_wrong_letters_are_refused(publisher: Publisher, what: str) -> None:
    """Each way in which letters can be wrong is named."""
    change, reason = REFUSED[what]
    publisher.publish()
    change(publisher)
    with pytest.raises(RepositoryRefused, match=reason):
        verify(publisher)


def test_only_the_hours_of_the_expiry_count(publisher: Publisher) -> None:
    """A whitelist ends at the full hour it names."""
    publisher.publish()
    publisher.write_whitelist(expires=datetime(2040, 2, 3, 4, 59, 59, tzinfo=UTC))
    hour = datetime(2040, 2, 3, 4, tzinfo=UTC).timestamp()
    assert whitelist(publisher).expires == hour
    verify(publisher, now=hour - 1)
    with pytest.raises(RepositoryRefused, match="expired"):
        verify(publisher, now=hour)


def test_comments_beside_fingerprints_are_ignored(publisher: Publisher) -> None:
    """Text after a blank or # is no part of a fingerprint."""
    publisher.publish()
    publisher.write_whitelist(fingerprints=["# releases", "", f"{publisher.fingerprint()} # Ann's machine"])
    verify(publisher)


@pytest.mark.parametrize("tag", [SHA1, SHAKE128])
def test_blacklists_win(publisher: Publisher, tag: str) -> None:
    """A certificate or a revision on the site's blacklist is refused whatever the whitelist says."""
    publisher.tag = tag
    publisher.publish()
    with pytest.raises(RepositoryRefused, match="certificate is on the blacklist"):
        verify(publisher, Blacklist.parse(f"# stolen\n\n{publisher.fingerprint()} # in May\n"))
    with pytest.raises(RepositoryRefused, match="revision 1 is on the blacklist"):
        verify(publisher, Blacklist.parse(f"<{publisher.name} 2\n"))
    verify(publisher, Blacklist.parse(f"<{publisher.name} 1\n<other.example.org 9\n{':'.join(['AB'] * 20)}\n"))


def test_a_blacklist_with_a_slip_is_refused() -> None:
    """A line that cannot be read might be the one that matters."""
    with pytest.raises(RepositoryRefused, match="line 2"):
        Blacklist.parse("# fine\nAB:CD\n")


@pytest.mark.parametrize("name", [".cvmfspublished", ".cvmfswhitelist"])
def test_no_byte_of_a_letter_can_be_changed(publisher: Publisher, name: str) -> None:
    """Letters with any one byte changed are refused, or say the same (a changed comment, no more, would need the key)."""
    publisher.publish()
    path = publisher.root / name
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(RepositoryRefused):
            verify(publisher)


@pytest.mark.parametrize("what", ["manifest", "whitelist"])
def test_oversize_letters_are_refused(publisher: Publisher, what: str) -> None:
    """More than a MiB is no letter, whoever signed it."""
    filler = f"#{'x' * letters.MAX_LETTER}\n"
    publisher.publish(extra=f"Z{filler}" if what == "manifest" else "")
    if what == "whitelist":
        publisher.write_whitelist(extra=filler)
    with pytest.raises(RepositoryRefused, match="more than"):
        verify(publisher)


@given(st.binary(max_size=400) | st.builds(lambda a, b: a + b"\n--\n" + b, st.binary(), st.binary()))
def test_noise_is_refused(data: bytes) -> None:
    """Whatever comes, a letter is read or refused: nothing else is raised."""
    for parse in (lambda: Manifest.parse(data, "a"), lambda: Whitelist.parse(data, "a", MASTER)):
        with pytest.raises(RepositoryRefused):
            parse()


@given(st.text(alphabet="CBRNXDSTAabcdef0123456789-\n", max_size=300), st.sampled_from(list(Algorithm)))
def test_well_hashed_noise_is_refused(text: str, algorithm: Algorithm) -> None:
    """A body whose own hash is right must still say everything that a manifest says."""
    body = text.encode() + b"\n"
    if b"\n--\n" in body:
        return
    data = body + b"--\n" + str(ContentHash.of(body, algorithm)).encode() + b"\nsignature"
    letter = Letter.parse(data, "letter")
    assert (letter.body, letter.signature) == (body, b"signature")
    with pytest.raises(RepositoryRefused):
        Manifest.parse(data, "test.example.org")


@given(st.text(max_size=200))
def test_blacklists_of_noise(text: str) -> None:
    """A blacklist is read or refused; nothing else is raised."""
    with suppress(RepositoryRefused):
        assert Blacklist.parse(text) == Blacklist()


@pytest.mark.parametrize("data", [b"", b"x\x9c", b"-----BEGIN"])
def test_damaged_certificates_are_refused(data: bytes) -> None:
    """A certificate object that cannot be inflated or read is refused."""
    with pytest.raises(RepositoryRefused):
        letters.load_certificate(letters.inflate_certificate(data))
    with pytest.raises(RepositoryRefused):
        letters.load_certificate(data)


def test_keys_that_are_none(tmp_path: Path, publisher: Publisher) -> None:
    """A file that is no master key is named."""
    assert letters.load_key(publisher.write_key(tmp_path / "key").read_bytes(), "key")
    with pytest.raises(ConfigInvalid, match=r"master\.pub: not a public key"):
        letters.load_key(b"-----BEGIN PUBLIC KEY-----", "master.pub")
