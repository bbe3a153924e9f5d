"""The load test of conversion: what is measured is a whole copy, and the table judges by the targets."""

import json
from pathlib import Path

import pytest

from loadtest import convert
from tests.lazy import hard


@pytest.mark.parametrize("way", ["isal 1", "zlib 1"])
def test_a_whole_copy_is_measured(
    way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run makes the copy and says how large it is."""
    monkeypatch.setattr(convert.codec, "fast", convert.codec.fast)
    layer = tmp_path / "layer"
    layer.write_bytes(hard.TARS["many kinds"])
    convert.one(way, layer, tmp_path / "copy")
    said = json.loads(capsys.readouterr().out)
    assert said["size"] == (tmp_path / "copy").stat().st_size
    assert said["uncompressed"] > len(hard.NOISE)


def test_a_program_that_fails_is_told() -> None:
    """No figure comes of a run that broke."""
    with pytest.raises(SystemExit, match="ended with 1"):
        convert.measured(["false"])
    spent, said = convert.measured(["echo", "x"])
    assert said == "x\n"
    assert spent.memory > 0


def test_the_table_says_what_missed() -> None:
    """Processor seconds are compared with ours, and our wall seconds scaled to the published image."""
    costs = {
        "isal 1": convert.Cost(10, 10, 1_000_000_000, 100, 1 << 20),
        "estargz.Build -1": convert.Cost(29, 20, 1_000_000_000, 100, 1 << 20),
        "estargz.Build -9": convert.Cost(101, 60, 1_000_000_000, 100, 1 << 20),
    }
    told = convert.report(costs, 100)
    assert "172 s ≤ 180 ok" in told
    assert "2.9 ≥ 3 MISSED" in told
    assert "10.1 ≥ 10 ok" in told
