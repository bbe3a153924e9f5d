"""Any sequence of what can happen to a store gives true bytes or a miss."""

import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from registry_proxy.tiers.base import Chunk
from registry_proxy.tiers.layout import GROUP
from registry_proxy.tiers.store import ChunkStore, Room
from tests.tiers.blobs import CHUNK, Blob, disk_use, files, loaded, noise, running, text

LIMIT = 100 * (CHUNK + 4096)
BLOBS = [noise((GROUP + 3) * CHUNK + 7), noise(5 * CHUNK, 1), text((GROUP + 1) * CHUNK, 2)]

blobs = st.sampled_from(BLOBS)
fractions = st.floats(0, 1, exclude_max=True)


def index_in(blob: Blob, fraction: float) -> int:
    """A chunk of the blob."""
    return int(fraction * blob.grid.count)


class StoreMachine(RuleBasedStateMachine):
    """A store that is written to, read, evicted from, damaged, stopped and killed."""

    loans = Bundle("loans")

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp()) / "store"
        self.runner = asyncio.Runner()
        self.open: list[tuple[Chunk, bytes]] = []
        self.start()

    def start(self) -> None:
        """Open the store."""
        self.stack = AsyncExitStack()
        self.store: ChunkStore = self.runner.run(self.stack.enter_async_context(running(self.place, LIMIT)))

    def teardown(self) -> None:
        """Close everything."""
        for chunk, _ in self.open:
            chunk.close()
        self.runner.run(self.stack.aclose())
        self.runner.close()
        shutil.rmtree(self.place.parent)

    @rule(blob=blobs, fraction=fractions)
    def put(self, blob: Blob, fraction: float) -> None:
        """A committed chunk is there, unless open chunks leave no room for it."""
        index = index_in(blob, fraction)
        room = self.runner.run(self.store.reserve(len(blob.part(index)), blob.digest))
        if room is None:
            assert self.open
            return
        self.runner.run(put_into(self.store, blob, index, room))
        assert self.runner.run(loaded(self.store, blob, index)) == blob.part(index)

    @rule(blob=blobs, fraction=fractions)
    def read(self, blob: Blob, fraction: float) -> None:
        """A read gives the true bytes or nothing."""
        index = index_in(blob, fraction)
        assert self.runner.run(loaded(self.store, blob, index)) in (None, blob.part(index))

    @rule(target=loans, blob=blobs, fraction=fractions)
    def borrow(self, blob: Blob, fraction: float) -> int:
        """A chunk is opened and kept open."""
        index = index_in(blob, fraction)
        chunk = self.runner.run(self.store.load_chunk(blob.digest, blob.grid, index))
        if chunk is not None:
            self.open.append((chunk, blob.part(index)))
        return index

    @rule(_=consumes(loans))
    def give_back(self, _: int) -> None:
        """The chunk opened first is read whole and given back."""
        if self.open:
            chunk, data = self.open.pop(0)
            assert chunk.read(0, chunk.length) == data
            chunk.close()

    @rule(chunks=st.integers(1, 90))
    def squeeze(self, chunks: int) -> None:
        """A flight that wants much room has groups evicted."""
        room = self.runner.run(self.store.reserve(chunks * CHUNK, noise(1, 9).digest))
        if room is not None:
            room.release()

    @rule(blob=blobs)
    def drop(self, blob: Blob) -> None:
        """A dropped blob is gone."""
        self.runner.run(self.store.drop(blob.digest))
        assert self.store.missing(blob.digest, blob.grid) == blob.grid.count

    @rule(at=fractions, how=st.sampled_from(["flip", "cut", "remove"]))
    def damage(self, at: float, how: str) -> None:
        """Somebody else does something to a file that nobody has open (a reader's own copy is beyond anybody's help)."""
        found = list(files(self.place).values())
        if not found or self.open:
            return
        file = found[int(at * len(found))]
        data = file.read_bytes()
        if how == "remove":
            file.unlink()
        elif how == "cut":
            file.write_bytes(data[: int(at * len(data))])
        elif data:  # it may have been cut to nothing
            spot = int(at * len(data))
            file.write_bytes(data[:spot] + bytes([data[spot] ^ 4]) + data[spot + 1 :])

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        """The instance is stopped; uncleanly means that what it noted at the end is not there."""
        self.runner.run(self.stack.aclose())
        if not clean:
            (self.place / "state").unlink()
        self.start()

    @invariant()
    def limits_hold(self) -> None:
        """Files and promises stay below the limit, and nothing stays promised."""
        assert disk_use(self.place) <= LIMIT
        assert self.store.stats().promised == 0

    @invariant()
    def sums_are_true_once_looked_at(self) -> None:
        """After another look the accounts say what the files say (but for files removed from outside and not asked for)."""
        self.runner.run(self.store.save())
        held = sum(-(-file.stat().st_size // 4096) * 4096 for file in files(self.place).values())
        assert self.store.stats().bytes >= held


async def put_into(store: ChunkStore, blob: Blob, index: int, room: Room) -> None:
    """Put one chunk and release the room."""
    try:
        (await store.put(blob.digest, blob.grid, index, blob.part(index), room)).close()
    finally:
        room.release()


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=10, stateful_step_count=30, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate)
)
