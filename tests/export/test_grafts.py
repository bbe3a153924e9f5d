"""Grafts as `cvmfs_server publish` reads them."""

from registry_proxy.export.grafts import graft, marker

SHAKE_OF_ABC = "5881092dd818bf5cf8a3ddb793fbcba74097d5c5"


def test_a_graft_is_what_cvmfs_reads() -> None:
    """Size, SHA-1 of the bytes as they lie (FIPS 180's own example), no compression."""
    assert graft(b"abc", "sha1") == (b"size=3\nchecksum=a9993e364706816aba3e25717850c26c9cd0d89d\ncompression=none\n")
    assert marker("17") == ".cvmfsgraft-17"


def test_shake128_is_cut_and_named() -> None:
    """SHAKE-128 has 160 bits and says what it is (`openssl shake128 -xoflen 20` of abc)."""
    assert f"checksum={SHAKE_OF_ABC}-shake128\n".encode() in graft(b"abc", "shake128")
