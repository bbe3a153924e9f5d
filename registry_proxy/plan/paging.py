"""Pages of names: ``n`` and ``last`` of a request, and the ``Link`` to the next page (distribution-spec, "Listing Tags")."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from registry_proxy.errors import BadRequest

MAX_PAGE = 1_000_000
"""Names on one page; a client that asks for more gets a link to the rest."""

MAX_LAST = 1024
"""Characters of a ``last`` that is looked at: a tag has at most 128, a repository 255."""


@dataclass(frozen=True, slots=True)
class Page:
    """The page asked for. ``n``: how many names, None where the client leaves it open; ``last``: the name before the first."""

    n: int | None
    last: str | None


def page(query: Mapping[str, str]) -> Page:
    """The page that a request's query asks for; raises BadRequest if ``n`` is no count or ``last`` absurdly long."""
    n, last = query.get("n"), query.get("last")
    if n is not None and not (n.isascii() and n.isdigit()):
        raise BadRequest(f"n is not a number of names: {n[:160]!r}")
    if last is not None and len(last) > MAX_LAST:
        raise BadRequest(f"last is longer than any name ({len(last)} characters)")
    return Page(None if n is None else _clipped(n), last)


def _clipped(digits: str) -> int:
    return min(int(digits), MAX_PAGE) if len(digits) < len(str(MAX_PAGE)) + 1 else MAX_PAGE


def next_link(path: str, query: Mapping[str, str], final: str) -> str:
    """The value of ``Link`` after a page that ended with the name ``final``, in the client's own form of the URL.

    ``path`` is the request's path as it came, so that a path prefix stays; the rest of the query (``n``, ``ns``) stays too.
    """
    return f'<{path}?{urlencode({**query, "last": final})}>; rel="next"'
