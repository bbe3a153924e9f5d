"""What refers to a manifest: signatures, SBOMs, indexes of lazy formats (distribution-spec, "Listing Referrers")."""

from collections.abc import Sequence
from typing import Any

import msgspec

from registry_proxy.oci.content import OCI_INDEX
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.routing import Target
from registry_proxy.web.answer import Answer
from registry_proxy.web.exchange import Exchange
from registry_proxy.web.heart import Discovery


async def answer(exchange: Exchange, discovery: Discovery, target: Target, digest: Digest) -> Answer:
    """An image index of the referrers, filtered if the client asks for one ``artifactType``."""
    wanted = (
        exchange.query.get("artifactType", "").replace(" ", "+") or None
    )  # typed by hand, a plus is often not escaped
    found = await discovery.referrers(target.upstream, target.repository, digest, wanted)
    filtered = (("OCI-Filters-Applied", "artifactType"),) if wanted else ()
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": matching(found, wanted)}
    return exchange.answer(200, ("Content-Type", OCI_INDEX), *filtered, body=msgspec.json.encode(index))


def matching(descriptors: Sequence[dict[str, Any]], artifact_type: str | None) -> list[dict[str, Any]]:
    """The descriptors of this artifact type, in their order; all of them if none is wanted in particular."""
    return [each for each in descriptors if not artifact_type or each.get("artifactType") == artifact_type]
