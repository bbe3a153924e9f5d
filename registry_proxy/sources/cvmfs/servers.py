"""Which server is asked, and which is asked next.

The servers are tried in their order. One that cannot be reached, fails or is busy is left out for a while, longer each time.
One that lacks an object is passed over for that object alone; so is one that sends wrong bytes, after it was asked again past
the caches on the way (cvmfs ``download.cc``: a poisoned cache heals that way).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from registry_proxy.errors import Trouble, UpstreamBroken, UpstreamBusy, UpstreamDown
from registry_proxy.plan.chunks import Span
from registry_proxy.sources.cvmfs.wire import Fetch, NotThere, Sink, WrongBytes, receive
from registry_proxy.sources.cvmfs.workers import Workers

_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 300.0
"""Seconds for which a server that failed is left out: the first time, and at most."""

S = TypeVar("S", bound=Sink)


@dataclass
class _State:
    failures: int = 0
    until: float = 0.0


class Servers:
    """Base URLs of one repository in order of preference. ``clock``: seconds, monotonic."""

    def __init__(
        self,
        urls: Sequence[str],
        fetch: Fetch,
        workers: Workers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._states = {url.rstrip("/"): _State() for url in urls}
        self._fetch = fetch
        self._workers = workers
        self._clock = clock

    def usable(self) -> list[str]:
        """Those to be tried, in order; raises UpstreamDown if all are left out for now."""
        now = self._clock()
        found = [url for url, state in self._states.items() if state.until <= now]
        if not found:
            raise UpstreamDown("no CVMFS server answered a moment ago")
        return found

    def states(self) -> dict[str, bool]:
        """True for a server that is tried, False for one that is left out for now."""
        now = self._clock()
        return {url: state.until <= now for url, state in self._states.items()}

    async def get(self, path: str, make: Callable[[], S], key: bytes, span: Span | None = None) -> tuple[S, str]:
        """What lies at ``path``, in a sink that ``make`` made, and the server it came from.

        Raises Trouble, what the last server said; OSError if the sink does.
        """
        said: Trouble | None = None
        for server in self.usable():
            for no_cache in (False, True):
                sink = make()
                try:
                    await self.ask(server, path, sink, no_cache=no_cache, key=key, span=span)
                except WrongBytes as error:
                    said = UpstreamBroken(f"{server}/{path}: {error}")
                except NotThere:
                    said = UpstreamBroken(f"{server}/{path}: not there")
                    break
                except Trouble as error:
                    said = error
                    break
                else:
                    return sink, server
        assert said is not None  # noqa: S101 (there was a server, and it said something)
        raise said

    async def ask(
        self,
        server: str,
        path: str,
        sink: Sink,
        *,
        no_cache: bool = False,
        key: bytes | None = None,
        span: Span | None = None,
    ) -> None:
        """One exchange with one server, which is remembered for how it went.

        Raises NotThere, WrongBytes, Trouble, or what the sink raises.
        """
        url = f"{server}/{path}"
        try:
            async with self._fetch(url, no_cache=no_cache, key=key, span=span) as answer:
                await receive(answer, url, span, sink, self._workers)
        except UpstreamBusy as busy:
            self._states[server].until = self._clock() + busy.retry_after
            raise
        except Trouble:
            self._failed(self._states[server])
            raise
        self._states[server] = _State()

    def _failed(self, state: _State) -> None:
        now = self._clock()
        if state.until <= now:  # of requests that fail together, one counts
            state.until = now + min(_FIRST_PAUSE * 2**state.failures, _LONGEST_PAUSE)
            state.failures = min(state.failures + 1, 10)
