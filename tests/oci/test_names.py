"""Repository names, tags, source hosts, and images as a person writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_proxy.errors import DigestInvalid, ManifestUnknown, NameInvalid, RegistryProxyError
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import ImageName, Tag, reference, repository, source_host

HEX = 64 * "a"


@pytest.mark.parametrize("text", ["a", "a/b", "library/alpine", "a-b", "a--b", "a_b", "a__b", "a.b", "0/1", "a" * 255])
def test_repository_names(text: str) -> None:
    """What the specification's grammar allows."""
    assert repository(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "/a", "a/", "a//b", "A", "a b", "a___b", "a..b", "-a", "a-", ".a", "a/.", "a/../b", "a%2fb", "a\x00", "a\n", "é", "a:b", "a" * 256],
)  # fmt: skip
def test_what_is_no_repository_name(text: str) -> None:
    """Upper case, empty components, dots on their own, escapes and control characters are refused."""
    with pytest.raises(NameInvalid):
        repository(text)


@pytest.mark.parametrize("text", ["latest", "V1.0", "_x", "0", "a" * 128])
def test_tags(text: str) -> None:
    """A tag has at most 128 characters and does not start with a dot or a dash."""
    assert reference(text) == Tag(text)


@pytest.mark.parametrize("text", ["", ".x", "-x", "a" * 129, "a/b", "a b", "a\n"])
def test_what_can_be_no_tag(text: str) -> None:
    """What can be no tag is a tag that does not exist."""
    with pytest.raises(ManifestUnknown):
        reference(text)


def test_references_with_a_colon_are_digests() -> None:
    """A colon makes it a digest, and then it has to be one."""
    assert reference(f"sha256:{HEX}") == Digest("sha256", HEX)
    with pytest.raises(DigestInvalid):
        reference("latest:1")


@pytest.mark.parametrize(
    ("text", "host"),
    [("docker.io", "docker.io"), ("Registry.Example:5000", "registry.example:5000"), ("localhost", "localhost"),
     ("127.0.0.1:80", "127.0.0.1:80"), ("[::1]:5000", "[::1]:5000")],
)  # fmt: skip
def test_source_hosts(text: str, host: str) -> None:
    """A host with or without a port, in lower case."""
    assert source_host(text) == host


@pytest.mark.parametrize(
    "text", ["", "a b", "http://a", "a/b", "a:", "a:123456", "-a", "a..b", "a@b", "user:pw@a", "a\n", "[::1"]
)
def test_what_is_no_source_host(text: str) -> None:
    """URLs, credentials, paths and empty labels are refused."""
    with pytest.raises(NameInvalid):
        source_host(text)


@pytest.mark.parametrize(
    ("text", "host", "path", "ref"),
    [
        ("alpine", "docker.io", "library/alpine", "latest"),
        ("alpine:3.20", "docker.io", "library/alpine", "3.20"),
        ("user/app", "docker.io", "user/app", "latest"),
        ("docker.io/alpine", "docker.io", "library/alpine", "latest"),
        ("ghcr.io/a/b:v1", "ghcr.io", "a/b", "v1"),
        ("localhost:5000/a", "localhost:5000", "a", "latest"),
        ("localhost/a:b", "localhost", "a", "b"),
        (f"quay.io/a@sha256:{HEX}", "quay.io", "a", f"sha256:{HEX}"),
        (f"quay.io/a:v1@sha256:{HEX}", "quay.io", "a", f"sha256:{HEX}"),
    ],
)
def test_image_names(text: str, host: str, path: str, ref: str) -> None:
    """Names are read the way docker and podman read them, and written out in full."""
    image = ImageName.parse(text)
    assert (image.host, image.repository, str(image.reference)) == (host, path, ref)
    assert ImageName.parse(str(image)) == image


@given(st.text(st.sampled_from("abA./:@_-%\x00 "), max_size=30) | st.text(max_size=30))
def test_any_text_is_an_image_or_our_error(text: str) -> None:
    """Whatever is typed, the outcome is an image that can be written and read again, or an error of ours."""
    try:
        image = ImageName.parse(text)
    except RegistryProxyError:
        return
    assert ImageName.parse(str(image)) == image
