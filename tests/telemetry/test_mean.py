"""An average that is kept up."""

from registry_proxy.telemetry.mean import Mean


def test_mean() -> None:
    """None of nothing, then the mean of what was added."""
    mean = Mean()
    assert mean.value is None
    mean.add(1.0)
    mean.add(2.0)
    assert mean.value == 1.5
