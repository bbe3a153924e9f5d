"""The load test of zTOCs: both sides do the same work, and the table judges by the target."""

import gzip
from pathlib import Path

from loadtest import ztoc
from tests.lazy.layers import tar


def test_all_of_the_layer_is_measured(tmp_path: Path) -> None:
    """The zTOC is of the whole layer; inflating goes through every member of it."""
    plain = tar({"a": bytes(range(256)) * 4000})
    layer = tmp_path / "layer"
    layer.write_bytes(gzip.compress(plain[:5000]) + gzip.compress(plain[5000:]))
    size, index = ztoc.build(layer)
    assert len(plain) - 10240 < size <= len(plain)
    assert index > 32768
    assert ztoc.inflate(layer) == len(plain)


def test_the_table_says_what_missed() -> None:
    """Rates are of uncompressed bytes per processor second; only the zTOC has a target."""
    slow = ztoc.report(100_000_000, {"zTOC": ztoc.Figure(1.0, 2.0), "gzip -dc": ztoc.Figure(0.5, 0.5)})
    assert "| zTOC     | 100           | 50                | ≥ 200 MISSED |" in slow
    assert "| gzip -dc | 200 " in slow
    assert "≥ 200 ok" in ztoc.report(100_000_000, {"zTOC": ztoc.Figure(0.5, 0.5)})
