"""A limit on concurrent exchanges that is shared out evenly among clients: who asks a thousand things waits for nobody but himself."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_Turn = asyncio.Future[None]


class FairSlots:
    """``count`` slots. The next one goes to the client that holds fewest, equals in turns; who holds one leaves a quarter to those who hold none."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._kept = count // 4
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, dict[_Turn, None]] = {}

    @asynccontextmanager
    async def slot(self, client: str) -> AsyncIterator[None]:
        """Hold a slot; waits for one as long as it takes. ``client``: on whose behalf."""
        await self._acquire(client)
        try:
            yield
        finally:
            self._give_back(client)

    async def _acquire(self, client: str) -> None:
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, {})[turn] = None
        self._review()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(client, turn)
            else:  # the slot had come just before
                self._give_back(client)
            raise

    def _leave(self, client: str, turn: _Turn) -> None:
        turns = self._waiting.get(client, {})
        turns.pop(turn, None)
        if not turns:
            self._waiting.pop(client, None)

    def _give_back(self, client: str) -> None:
        self._free += 1
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]
        self._review()

    def _review(self) -> None:
        """Give the free slots away."""
        while self._waiting:
            client = min(self._waiting, key=self._held.__getitem__)  # the first of equals: see ``_grant``
            if self._free <= (self._kept if self._held[client] else 0):
                return
            self._grant(client)

    def _grant(self, client: str) -> None:
        turns = self._waiting.pop(client)
        turn = next(iter(turns))
        del turns[turn]
        if turns:
            self._waiting[client] = turns  # behind all others
        if turn.cancelled():  # and its task has not run since
            return
        self._free -= 1
        self._held[client] += 1
        turn.set_result(None)
