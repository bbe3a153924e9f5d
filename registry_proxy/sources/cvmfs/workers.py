"""Threads for hashing, inflating, files and catalogs: none of it may hold up the event loop, or others' threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A few threads. ``count``: threads at most."""

    def __init__(self, count: int = 4) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix="cvmfs")

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result, from a thread. It runs on if the caller is cancelled."""
        return await asyncio.wrap_future(self._executor.submit(function, *args, **kwargs))

    def leave(self, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Have something tidied up that nobody waits for."""
        self._executor.submit(function, *args, **kwargs)

    def close(self) -> None:
        """Take no more; what is queued is still done (it tidies up)."""
        self._executor.shutdown(wait=False)
