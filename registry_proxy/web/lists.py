"""Pages of names: tags of a repository and repositories of an upstream (distribution-spec, "Listing Tags")."""

import msgspec

from registry_proxy.errors import CatalogDisabled
from registry_proxy.oci.names import SourceHost
from registry_proxy.plan import paging
from registry_proxy.plan.routing import Target
from registry_proxy.web.answer import Answer
from registry_proxy.web.exchange import Exchange
from registry_proxy.web.heart import Discovery, NamePage

JSON = ("Content-Type", "application/json")


async def tags(exchange: Exchange, discovery: Discovery, target: Target, name: str) -> Answer:
    """One page of a repository's tags; ``name``: the repository as the client calls it."""
    asked = paging.page(exchange.query)
    page = await discovery.tags(target.upstream, target.repository, asked.n, asked.last)
    return _page(exchange, {"name": name, "tags": page.names}, page)


async def catalog(exchange: Exchange, discovery: Discovery, upstream: SourceHost | None) -> Answer:
    """One page of an upstream's repositories; raises CatalogDisabled if the request names no upstream."""
    if upstream is None:
        raise CatalogDisabled("name the upstream whose catalog is wanted")
    asked = paging.page(exchange.query)
    page = await discovery.catalog(upstream, asked.n, asked.last)
    return _page(exchange, {"repositories": page.names}, page)


def _page(exchange: Exchange, body: dict[str, object], page: NamePage) -> Answer:
    link = (
        (("Link", paging.next_link(exchange.path, exchange.query, page.names[-1])),) if page.more and page.names else ()
    )
    return exchange.answer(200, JSON, *link, body=msgspec.json.encode(body))
