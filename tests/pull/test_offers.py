"""Images that are made lazy without being asked for."""

import asyncio
import gzip

from registry_proxy.config import Lazy
from registry_proxy.config.units import Size
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, Tag
from tests.fakes.instance import HOST, Benches
from tests.fakes.upstream import FakeUpstream
from tests.lazy.layers import tar


async def test_a_base_layer_is_looked_out_for_once_for_each_of_few_repositories(
    bench: Benches, upstream: FakeUpstream
) -> None:
    """A layer that many images share, pulled again and again and never from here, is not remembered anew each time."""
    layer = gzip.compress(tar({"a": b"contents"}))
    names = [f"library/r{number}" for number in range(20)]
    for name in names:
        upstream.add_image(layers=[layer], tag="v1", repository=name)
    async with bench(lazy=Lazy(soci="eager", smallest_layer=Size(0))) as b:
        offers = b.instance.manifests
        for name in (*names, *names):
            offers._noticed.clear()  # as if a thousand other images had been pulled meanwhile
            await offers.get(HOST, Repository(name), Tag("v1"))
        while offers._background._tasks:
            await asyncio.wait(offers._background._tasks)
        watched = [job.repository for job in offers._watched[str(Digest.of(layer))]]
    assert watched == names[-16:]
