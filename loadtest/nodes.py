"""Simulated nodes: each has one connection and asks for the same things in the same order; bytes are counted, some are hashed.

    python -m loadtest.nodes PLAN.json

A process of its own, so that the clients take no time of the loop that plays the upstream; several share the nodes. The result
is one JSON object on standard output.
"""

import asyncio
import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import msgspec

BUFFER: Final = 1 << 20
LIMIT: Final = 300.0  # seconds that a burst may take
HEAD_LIMIT: Final = 1 << 16


class Wanted(msgspec.Struct, frozen=True):
    """One request as it stands on the wire, and what must come back. ``body``: bytes; ``sha256``: of the body."""

    request: str
    status: int
    body: int
    sha256: str


class Plan(msgspec.Struct, frozen=True):
    """What a process does: nodes ``first``, ``first + step`` … below ``nodes`` start at ``at`` (monotonic clock, seconds).

    ``hashed``: one node in so many hashes what it gets.
    """

    host: str
    port: int
    nodes: int
    first: int
    step: int
    at: float
    hashed: int
    wanted: list[Wanted]


@dataclass
class Outcome:
    """What the nodes of a process found. ``seconds``: from the burst to ready, a figure per node that got there."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    body: int = 0


class Node(asyncio.BufferedProtocol):
    """One node. The buffer is shared: what is in it has been dealt with before anything else is read."""

    def __init__(self, plan: Plan, shared: memoryview, outcome: Outcome, *, hashing: bool) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._plan, self._shared, self._outcome, self._hashing = plan, shared, outcome, hashing
        self._next = 0
        self._left = 0
        self._head = b""
        self._hash = hashlib.sha256()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first thing."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def get_buffer(self, _: int) -> memoryview:
        """The shared buffer."""
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        """Count what came; go on when an answer is over."""
        at = 0
        while at < nbytes and not self.done.done():
            at = self._body(at, nbytes) if self._left else self._headers(at, nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        """Too early, unless everything was there."""
        self._fail(f"connection lost in request {self._next}: {exc}")

    def _ask(self) -> None:
        if self._next == len(self._plan.wanted):
            self._outcome.seconds.append(time.monotonic() - self._plan.at)
            self.done.set_result(None)
            self._transport.close()
            return
        self._transport.write(self._plan.wanted[self._next].request.encode())

    def _headers(self, at: int, nbytes: int) -> int:
        known = len(self._head)
        self._head += bytes(self._shared[at:nbytes])
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > HEAD_LIMIT:
                self._fail("headers without an end")
            return nbytes
        wanted = self._plan.wanted[self._next]
        lines = self._head[:end].decode("latin-1").split("\r\n")
        at += end + 4 - known
        self._head = b""
        length = next((line[15:].strip() for line in lines if line.lower().startswith("content-length:")), "0")
        if int(lines[0].split()[1]) != wanted.status:
            self._fail(f"{lines[0]} to {wanted.request.splitlines()[0]}")
        elif wanted.request.startswith("HEAD"):
            self._end()
        elif int(length) != wanted.body:
            self._fail(f"{length} bytes to {wanted.request.splitlines()[0]}")
        elif not wanted.body:
            self._end()
        else:
            self._left = wanted.body
        return at

    def _body(self, at: int, nbytes: int) -> int:
        count = min(self._left, nbytes - at)
        if self._hashing:
            self._hash.update(self._shared[at : at + count])
        self._left -= count
        self._outcome.body += count
        if not self._left:
            if self._hashing and self._hash.hexdigest() != self._plan.wanted[self._next].sha256:
                self._fail(f"WRONG BYTES to {self._plan.wanted[self._next].request.splitlines()[0]}")
            self._hash = hashlib.sha256()
            self._end()
        return at + count

    def _end(self) -> None:
        if not self.done.done():
            self._next += 1
            self._ask()

    def _fail(self, what: str) -> None:
        if not self.done.done():
            self._outcome.failures.append(what)
            self.done.set_result(None)
            self._transport.abort()


async def burst(plan: Plan) -> Outcome:
    """All nodes of this process, at once."""
    outcome, shared = Outcome(), memoryview(bytearray(BUFFER))
    await asyncio.sleep(plan.at - time.monotonic())
    try:
        async with asyncio.timeout(LIMIT):
            await asyncio.gather(
                *(_node(plan, number, shared, outcome) for number in range(plan.first, plan.nodes, plan.step))
            )
    except TimeoutError:
        outcome.failures.append(f"not over within {LIMIT:.0f} s")
    return outcome


async def _node(plan: Plan, number: int, shared: memoryview, outcome: Outcome) -> None:
    """One node, with an address of its own: 127.1.0.1 and up."""
    own = f"127.1.{number // 250}.{number % 250 + 1}"
    try:
        _, node = await asyncio.get_running_loop().create_connection(
            lambda: Node(plan, shared, outcome, hashing=number % plan.hashed == 0),
            plan.host,
            plan.port,
            local_addr=(own, 0),
        )
    except OSError as error:
        outcome.failures.append(f"no connection: {error}")
        return
    await node.done


def main() -> None:
    """Do what the plan says."""
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    print(json.dumps(asdict(asyncio.run(burst(plan)))))


if __name__ == "__main__":
    main()
