"""The proxy's own client side in front of fake upstreams."""

from typing import Any

from registry_proxy.config import Upstream
from registry_proxy.net.upstream import UpstreamClient
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.sources.base import BlobPlace
from registry_proxy.telemetry.metrics import Metrics
from tests.fakes.upstream import REPOSITORY, FakeUpstream

HOST = SourceHost("fake.example")


def settings_for(*upstreams: FakeUpstream | str, **settings: Any) -> Upstream:
    """The configuration of one upstream whose mirrors are these, in order."""
    urls = tuple(each if isinstance(each, str) else each.url for each in upstreams)
    return Upstream(urls, **settings)


def client_for(*upstreams: FakeUpstream | str, metrics: Metrics | None = None, **settings: Any) -> UpstreamClient:
    """A client of one upstream whose mirrors are these, in order; to be used with ``async with``."""
    return UpstreamClient(HOST, settings_for(*upstreams, **settings), metrics or Metrics())


def place(digest: Digest, repository: str = REPOSITORY) -> BlobPlace:
    """Where a blob lives in the upstream of ``client_for``."""
    return BlobPlace(HOST, Repository(repository), digest)
