"""Names in the store's directory."""

from pathlib import Path

import pytest

from registry_proxy.oci.digest import Digest
from registry_proxy.tiers.layout import (
    ChunkName,
    Layout,
    blob_name,
    parse_blob_name,
    parse_chunk_name,
    parse_group_name,
)

SHA256 = Digest.of(b"layer")
SHA512 = Digest.of(b"layer", "sha512")


def test_a_chunk_lies_under_its_digest_and_group() -> None:
    """chunks/<2 hex>/<hex>/<group>/<index>, 64 chunks to a group."""
    path = Layout(Path("/store")).chunk(SHA256, 130)
    assert path == f"/store/chunks/{SHA256.hex[:2]}/{SHA256.hex}/2/130"


@pytest.mark.parametrize("digest", [SHA256, SHA512])
def test_a_blob_directory_name_says_which_digest(digest: Digest) -> None:
    """Names of both algorithms are read back as the digest they were made from."""
    assert parse_blob_name(blob_name(digest), digest.hex[:2]) == digest


@pytest.mark.parametrize(
    "name", ["", "..", SHA256.hex[:-1], SHA256.hex.upper(), f"sha256-{SHA256.hex}", f"md5-{SHA256.hex}", SHA512.hex]
)
def test_other_directory_names_are_not_ours(name: str) -> None:
    """A name that this program would not write names no blob."""
    assert parse_blob_name(name, SHA256.hex[:2]) is None


def test_a_blob_below_the_wrong_digits_is_not_ours() -> None:
    """Nobody would find it there."""
    assert parse_blob_name(SHA256.hex, "zz") is None


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("0", ChunkName(0, False)),
        ("63.lz4", ChunkName(63, True)),
        ("64", None),
        ("01", None),
        ("1.gz", None),
        ("-1", None),
    ],
)
def test_a_chunk_name_is_its_index(name: str, parsed: ChunkName | None) -> None:
    """Only the canonical number, in its own group, names a chunk."""
    assert parse_chunk_name(name, 0) == parsed


@pytest.mark.parametrize(("name", "number"), [("0", 0), ("12", 12), ("012", None), ("x", None), ("٣", None)])
def test_a_group_name_is_its_number(name: str, number: int | None) -> None:
    """Only the canonical number names a group."""
    assert parse_group_name(name) == number
