"""Wish lists in DUCC's form."""

import pytest

from registry_proxy.errors import ConfigInvalid
from registry_proxy.export.wishlist import Pattern, parse

LIST = """
version: 1
user: cvmfsunpacker
cvmfs_repo: 'images.example.org'
output_format: >
  https://registry.example/unpacked/sync/$(image)
input:
  - 'https://registry.hub.docker.com/library/centos:7'
  - https://registry.hub.docker.com/redis:*
  - 'https://registry.example:5001/team/analysis@sha256:{digest}'
  - 'http://registry.example/team/analysis:v1.*-slim'
  - 'https://registry.example/team/analysis'
""".replace("{digest}", "ab" * 32)


def test_images_and_patterns() -> None:
    """URLs become image names, Docker Hub by its one name; `*` in a tag stands for tags to be looked up."""
    assert [str(wish) for wish in parse(LIST)] == [
        "docker.io/library/centos:7",
        "docker.io/library/redis:*",
        f"registry.example:5001/team/analysis@sha256:{'ab' * 32}",
        "registry.example/team/analysis:v1.*-slim",
        "registry.example/team/analysis:latest",
    ]


def test_a_star_is_any_characters_and_all_of_the_tag_counts() -> None:
    """A pattern matches whole tags."""
    pattern = parse(LIST)[3]
    assert isinstance(pattern, Pattern)
    assert [pattern.matches(tag) for tag in ("v1.2-slim", "v1.-slim", "v1.2-slim2", "xv1.2-slim")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("input: [", "not YAML"),
        ("- a list", "not a wish list"),
        ("version: 2\ninput: []", "version 2"),
        ("version: 1", "input"),
        ("version: 1\ninput: ['alpine:3']", "not the URL of an image"),
        ("version: 1\ninput: ['https://registry.example/Team:v1']", "not a repository name"),
        ("version: 1\ninput: ['https://registry.example/../x:*']", "not a repository name"),
        ("version: 1\ninput: ['https://u:p@registry.example/a:v1']", "not the URL of an image"),
    ],
)
def test_what_is_no_wish_list(text: str, why: str) -> None:
    """A mistake is said in one line."""
    with pytest.raises(ConfigInvalid, match=why):
        parse(text)
