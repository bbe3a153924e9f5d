"""The small headers of answers and requests: each line is read as every one of them."""

import contextlib
from datetime import UTC, datetime

from registry_proxy.errors import DigestInvalid
from registry_proxy.net.hops import instances
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.basic import parse_basic
from registry_proxy.plan.chunk_objects import parse_repr_digest, via_names
from registry_proxy.plan.content_range import parse_content_range
from registry_proxy.plan.forward_proxies import forward_error
from registry_proxy.plan.ratelimit import parse_rate_limit
from registry_proxy.plan.refusals import parse_retry_after

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run(data: bytes) -> None:
    """Each has a meaning or none; nothing is raised but by a digest."""
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        _one(line)


def _one(line: str) -> None:
    said = parse_content_range(line)
    assert said is None or 0 <= said.span.start < said.span.stop <= said.total
    wait = parse_retry_after(line, NOW)
    assert wait is None or wait >= 0
    parse_repr_digest(line)
    assert all(via_names(line))
    assert len(instances(line)) <= 16
    claimed = parse_basic(line)
    assert claimed is None or (":" not in claimed.user and "\n" not in claimed.user + claimed.password)
    parse_rate_limit({"ratelimit-limit": line, "ratelimit-remaining": line})
    assert len(forward_error({"Proxy-Status": line}) or "") <= 80
    with contextlib.suppress(DigestInvalid):
        assert str(Digest.parse(line)) == line
