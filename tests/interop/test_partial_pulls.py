"""podman pulls a zstd:chunked image in parts: one request of many ranges, answered from a registry that has none."""

from collections.abc import Callable
from pathlib import Path

from tests.interop.harness.clients import podman
from tests.interop.harness.content import HASH_PYTHON, python_hash
from tests.interop.harness.front import Front, front
from tests.interop.harness.proxy import SOURCE, registry_proxy
from tests.interop.harness.registries import Image


def test_zstd_chunked(gitlab: Front, pushed: dict[str, Image], work: Path, figure: Callable[[str], None]) -> None:
    """Multi-range requests get multipart answers in front of a range-less registry, cold and warm, and the files are right."""
    image = pushed["py-zstdchunked"]
    reference = f"{SOURCE}/{image.repository}:latest"
    with (
        registry_proxy(work / "proxy", {SOURCE: gitlab.url}) as proxy,
        front(proxy.address, work) as tap,
    ):
        for temperature in ("cold", "warm"):
            tap.forget()
            with podman(work / temperature, SOURCE, tap.address, partial=True) as client:
                client.pull(reference)
                many = [request for request in tap.requests() if request.range.count(",") > 2]
                assert many
                assert {request.status for request in many} == {206}
                # podman 4.3 falls back silently: without whole layers nothing but the parts can have come
                whole = [request for request in tap.requests() if "/blobs/" in request.uri and request.status == 200]
                assert not [request for request in whole if any(d in request.uri for d in image.layer_digests)]
                assert client.run(reference, "/usr/bin/python3", "-c", HASH_PYTHON).split()[-1] == python_hash(image)
            if temperature == "cold":
                sent, ranges = tap.sent(), max(request.range.count(",") + 1 for request in many)
                figure(f"zstd:chunked by podman, range-less upstream: {sent / 1e6:.1f} MB to the client in up to {ranges} ranges"
                       f" per request, {gitlab.sent() / 1e6:.1f} MB from upstream, image {image.size / 1e6:.1f} MB")  # fmt: skip
                assert gitlab.sent() <= 1.06 * image.size
                gitlab.process.stop()
