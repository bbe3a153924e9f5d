"""A farm larger than a test can be: how long its nodes wait, simulated from constants that were measured.

    python -m loadtest.scale [--nodes 100000] [--edges 8] [--squids 2] [--spread 60]

Each node picks one edge at random and shares it evenly with those that are there (processor sharing, in steps). An edge gives no more
than its network and its cores carry, and nothing that has not reached it yet: the image's chunks cross the border once, then the
Squids, each of which has its share of them, and at last each edge's link. `docs/scaling.md` says what follows.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from loadtest import table

STEP: Final = 0.25  # seconds


@dataclass(frozen=True, slots=True)
class Site:
    """The farm. Bytes per second, seconds, counts; what was measured, and on what, stands in ``docs/measured.md``.

    ``body``, ``requests``: of one lazy start; ``chunks``: bytes of the chunks it touches; ``per_core``: bytes that one core of an edge
    sends per second of such starts; ``filling``: bytes per second that an edge can take in; ``spread``: seconds over which nodes start.
    """

    nodes: int = 100_000
    edges: int = 8
    cores: int = 8
    network: float = 25e9 / 8
    squids: int = 2
    squid: float = 490e6
    border: float = 10e9 / 8
    body: float = 37.9e6
    chunks: float = 40.4e6
    per_core: float = 2.5e9
    filling: float = 125e6
    spread: float = 60.0

    @property
    def edge_rate(self) -> float:
        """Bytes per second that one edge gives."""
        return min(self.network, self.cores * self.per_core)

    @property
    def fill_seconds(self) -> float:
        """Until every edge has every chunk, if all ask at once: the slowest of border, Squids and taking in."""
        through_squids = self.chunks * self.edges / (self.squids * self.squid) if self.squids else 0.0
        over_border = self.chunks * (1 if self.squids else self.edges) / self.border
        return max(self.chunks / self.filling, over_border, through_squids)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds from a node's start to ready; ``ideal``: what one node alone takes at the edge's rate, once the edge has all."""

    p50: float
    p99: float
    last: float
    border: float


def simulate(site: Site, seed: int = 1) -> Outcome:
    """One burst."""
    dice = random.Random(seed)
    arrivals: list[list[float]] = [[] for _ in range(site.edges)]
    for _ in range(site.nodes):
        arrivals[dice.randrange(site.edges)].append(dice.random() * site.spread)
    waits: list[float] = []
    for times in arrivals:
        waits += _edge(site, sorted(times))
    waits.sort()
    crossed = site.chunks * (1 if site.squids else site.edges)
    return Outcome(waits[len(waits) // 2], waits[int(len(waits) * 0.99)], waits[-1], crossed)


def _edge(site: Site, times: Sequence[float]) -> list[float]:
    """How long each node of one edge waits. All that are there have got the same since they came, so one number tells what each still needs."""
    waits, now, given, at = [], 0.0, 0.0, 0
    active: list[tuple[float, float]] = []  # (given when it is done, when it came), in the order of both
    first = times[0] if times else 0.0
    while at < len(times) or active:
        while at < len(times) and times[at] <= now:
            active.append((given + site.body, times[at]))
            at += 1
        if active:
            share = site.edge_rate / len(active) * STEP
            known = min(1.0, (now - first) / site.fill_seconds) if site.fill_seconds else 1.0
            ahead = active[0][0] - site.body + known * site.body  # nobody gets what has not come yet
            given = min(given + share, max(given, ahead)) if known < 1 else given + share
            done = 0
            while done < len(active) and active[done][0] <= given:
                waits.append(now + STEP - active[done][1])
                done += 1
            del active[:done]
        now += STEP
    return waits


def report(sites: Sequence[Site]) -> str:
    """A line for each site."""
    rows = []
    for site in sites:
        found = simulate(site)
        needed = site.nodes * site.body / site.edge_rate / site.edges
        rows.append((f"{site.nodes:,}", str(site.edges), str(site.squids), f"{site.spread:.0f}", f"{needed:.0f}",
                     f"{found.p50:.1f}", f"{found.p99:.1f}", f"{found.last:.1f}", f"{found.border / 1e6:.0f}"))  # fmt: skip
    head = ("nodes", "edges", "Squids", "start within s", "bytes ÷ all edges' rate, s", "ready p50 s", "p99 s", "last s",
            "MB over the border")  # fmt: skip
    return table.markdown(head, rows)


def main(words: Sequence[str] | None = None) -> int:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        prog="loadtest.scale", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--edges", type=int, default=8)
    parser.add_argument("--squids", type=int, default=2)
    parser.add_argument("--spread", type=float, default=60.0)
    given = parser.parse_args(words)
    base = Site(edges=given.edges, squids=given.squids, spread=given.spread)
    if given.nodes is not None:
        sites = [replace(base, nodes=given.nodes)]
    else:
        sites = [
            replace(base, nodes=1_000, edges=1, squids=0),
            replace(base, nodes=10_000, edges=1, squids=0),
            replace(base, nodes=10_000, edges=2, squids=1),
            replace(base, nodes=100_000, edges=4),
            replace(base, nodes=100_000, edges=8),
            replace(base, nodes=100_000, edges=16, squids=4),
            replace(base, nodes=100_000, edges=32, squids=4),
        ]
    print(report(sites))
    return 0


if __name__ == "__main__":
    sys.exit(main())
