"""Ways around the gates that somebody has tried: each ends as it should, and none is open again."""

from registry_proxy.oci.digest import Digest
from tests.fakes.instance import CHUNK, HOST, Benches, noise
from tests.fakes.upstream import FakeUpstream

LAYER = noise(3 * CHUNK + 7)
PASS = {"access": "pass-through", "listen": True}


async def test_who_may_list_may_not_read(bench: Benches, upstream: FakeUpstream) -> None:
    """A yes about a list of tags is none about what the tags name: registries tell the two rights apart."""
    upstream.add_image(layers=[LAYER], tag="v1", repository="team/app")
    paths = [f"/v2/team/app/{what}?ns={HOST}" for what in (f"blobs/{Digest.of(LAYER)}", "manifests/v1")]
    async with bench(**PASS) as one, one.wire() as wire:
        for path in paths:
            assert (await wire.ask(path, "Authorization: Bearer reader")).status == 200
        upstream.fail("blob", 403)
        upstream.fail("manifest", 403)
        assert (await wire.ask(f"/v2/team/app/tags/list?ns={HOST}", "Authorization: Bearer lister")).status == 200
        for path in paths:
            assert (await wire.ask(path, "Authorization: Bearer lister")).status == 403
            assert (await wire.ask(path, "Authorization: Bearer reader")).status == 200


async def test_one_thing_refused_closes_no_repository(bench: Benches, upstream: FakeUpstream) -> None:
    """Who asks for what the upstream refuses to all shuts out nobody who shows the same, anonymous ones above all."""
    upstream.add_image(layers=[LAYER], tag="v1", repository="team/app")
    quarantined = f"/v2/team/app/blobs/{Digest.of(b'quarantined')}?ns={HOST}"
    async with bench(**PASS) as one, one.wire() as wire:
        upstream.fail("blob", 403)
        assert (await wire.ask(quarantined)).status == 403
        upstream.heal()
        assert (await wire.ask(quarantined)).status == 403  # for five seconds
        assert (await wire.ask(f"/v2/team/app/manifests/v1?ns={HOST}")).status == 200
        assert (await wire.ask(f"/v2/team/app/blobs/{Digest.of(LAYER)}?ns={HOST}")).body == LAYER
