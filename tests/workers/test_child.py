"""A process of the instance that cannot do what the supervisor says."""

import asyncio
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from registry_proxy.config import Config, Store
from registry_proxy.telemetry.metrics import Metrics
from registry_proxy.workers import control
from registry_proxy.workers.child import Child
from registry_proxy.workers.control import Apply
from registry_proxy.workers.wire import Wire


class Orders:
    """A supervisor who says one thing."""

    async def receive(self) -> bytes:
        return control.pack(Apply(Config(Store(path=Path("/nowhere")), {})))


class Clumsy:
    """A process that makes a mistake."""

    urls: list[str] = []
    metrics = Metrics()

    async def apply(self, config: Config) -> None:
        raise KeyError("a mistake")


async def test_a_mistake_with_an_order_is_logged() -> None:
    """The process ends with it, and the log says with what."""
    with capture_logs() as lines, pytest.raises(KeyError):
        await asyncio.wait_for(Child(cast("Wire", Orders()))._obey(Clumsy()), 10)
    assert [line["event"] for line in lines] == ["orders.broke"]
