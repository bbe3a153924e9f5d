"""Pages of names and links to the next one."""

import pytest

from registry_proxy.errors import BadRequest
from registry_proxy.plan.paging import MAX_PAGE, Page, next_link, page


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, Page(None, None)),
        ({"n": "0"}, Page(0, None)),
        ({"n": "10", "last": "v1"}, Page(10, "v1")),
        ({"n": "9" * 5000}, Page(MAX_PAGE, None)),
    ],
)
def test_pages(query: dict[str, str], expected: Page) -> None:
    """``n`` is a count, clipped where it is absurd."""
    assert page(query) == expected


@pytest.mark.parametrize("query", [{"n": "-1"}, {"n": "x"}, {"n": ""}, {"n": "\u0661"}, {"last": "x" * 2000}])
def test_bad_pages(query: dict[str, str]) -> None:
    """What is no count, or longer than any name, is refused."""
    with pytest.raises(BadRequest):
        page(query)


def test_the_link_keeps_the_clients_form() -> None:
    """Path prefix, ``ns`` and ``n`` stay; ``last`` is the final name, escaped."""
    query = {"n": "2", "ns": "registry.test:5000", "last": "a"}
    link = next_link("/v2/docker.io/a/tags/list", query, "b>c")
    assert link == '</v2/docker.io/a/tags/list?n=2&ns=registry.test%3A5000&last=b%3Ec>; rel="next"'
