"""Whatever a client names, only configured upstreams are asked."""

from pathlib import Path

import pytest

from tests.fakes.instance import benches
from tests.fakes.upstream import FakeUpstream

ZEROS = "sha256:" + 64 * "0"
WHAT = ["manifests/latest", f"manifests/{ZEROS}", f"blobs/{ZEROS}", "tags/list", f"referrers/{ZEROS}"]


@pytest.mark.parametrize("what", WHAT)
async def test_names_are_keys_and_never_addresses(tmp_path: Path, what: str) -> None:
    """A host in `ns`, in OCI-Namespace, in the path or in an absolute URL is looked up and not dialled: 404, and nobody hears of it."""
    async with FakeUpstream() as upstream, FakeUpstream() as inside:
        inside.add_image(repository="team/app")
        async with benches(tmp_path / "store", upstream)(listen=True) as bench, bench.wire() as wire:
            for target, headers in (
                (f"/v2/team/app/{what}?ns={inside.host}", ()),
                (f"/v2/team/app/{what}?ns=http://{inside.host}/", ()),
                (f"/v2/team/app/{what}?ns=169.254.169.254", ()),
                (f"/v2/team/app/{what}", (f"OCI-Namespace: {inside.host}",)),
                (f"/v2/{inside.host}/team/app/{what}", ()),
                (f"/v2/169.254.169.254/team/app/{what}", ()),
                (f"http://{inside.host}/v2/team/app/{what}", ()),
            ):
                answer = await wire.ask(target, *headers)
                assert answer.status in {400, 404}, target
                assert answer.complete
        assert not inside.requests
        assert not upstream.requests


@pytest.mark.parametrize(
    "headers", [("OCI-Namespace: 169.254.169.254", "OCI-Repository: team/app"), ("OCI-Repository: a/b",), ()]
)
async def test_chunk_objects_lead_nowhere_else(tmp_path: Path, headers: tuple[str, ...]) -> None:
    """The headers of a chunk object name a configured upstream, or nobody is asked."""
    async with FakeUpstream() as upstream:
        async with benches(tmp_path / "store", upstream)(listen=True) as bench, bench.wire() as wire:
            answer = await wire.ask(f"/chunks/v1/sha256/{64 * '0'}/65536/0", *headers)
            assert 400 <= answer.status < 500
        assert not upstream.requests
