"""Work that nobody waits for, and that has an owner all the same."""

import asyncio
from collections.abc import Coroutine

import structlog

from registry_proxy.errors import RegistryProxyError

_log = structlog.get_logger()


class Background:
    """Does it beside everything else. ``event``: under which its trouble is logged; ``close`` ends what is under way."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Do this, from the next turn of the loop on."""
        task = asyncio.create_task(self._quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _quietly(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except RegistryProxyError as error:
            _log.warning(self._event, error=str(error))
        except Exception:  # noqa: BLE001  # a mistake of ours, which nobody else would see
            _log.exception(self._event)
