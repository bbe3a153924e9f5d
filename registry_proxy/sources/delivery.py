"""A body under way from an upstream, counted against what it promised."""

from collections.abc import AsyncIterator, Callable

from registry_proxy.errors import SizeContested, UpstreamBroken
from registry_proxy.net.response import Response
from registry_proxy.plan.chunks import Span


class UpstreamDelivery:
    """The bytes of ``span`` as one response brings them; see ``sources.base.Delivery``."""

    proves = True

    def __init__(
        self, response: Response, span: Span, total: int | None, *, ranged: bool, received: Callable[[int], None]
    ) -> None:
        self.span = span
        self.total = total
        self.origin = str(response.origin)
        self.ranged = ranged
        self.waited = response.seconds
        self._response = response
        self._received = received

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes in order, in pieces of at most a MiB.

        Raises UpstreamBroken if the body ends early without an error or goes on too long (SizeContested, if nothing but this tells how long
        it is), UpstreamUnreachable if it is cut.
        """
        wrong = SizeContested if self.total is None else UpstreamBroken
        left = len(self.span)
        async for data in self._response.pieces():
            left -= len(data)
            if left < 0:
                raise wrong(f"{self.origin} sends more than the {len(self.span)} bytes it should")
            self._received(len(data))
            yield data
        if left:
            raise wrong(f"{self.origin} sent {left} bytes fewer than the {len(self.span)} it should")
