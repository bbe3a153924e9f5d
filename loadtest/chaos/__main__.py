"""Random faults of upstream, disk, process and clients, under clients that check every byte against the truth.

    python -m loadtest.chaos [--minutes 30] [--clients 200] [--seed N] [--workers 1] [--only FAULT …]

The seed is printed and draws faults, blobs and requests (not the order in which a busy machine runs them). After the faults
everything is mended, every blob is asked for whole and in ranges, and the store is verified. What must not happen: wrong bytes in a
complete answer or in a range of a verified blob; an answer shorter than it says, or of another kind than was asked for; a request
without an end; a blob that stays wrong or out of reach once the faults are over; space that the store has lost sight of.
"""

import argparse
import asyncio
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiohttp

from loadtest import kept, table
from loadtest.chaos.clients import PAUSE, Client
from loadtest.chaos.faults import inject
from loadtest.chaos.truth import Tally
from loadtest.chaos.world import World, world
from registry_proxy.plan.chunks import Span
from tests.interop.harness.proxy import SOURCE

MEMORY: Final = 512 << 20
"""Bytes that each process of the instance may have in memory, with any number of clients."""

HEALED: Final = 30.0
"""Seconds in which everything must be right again: an upstream that failed is left alone for a while, so is a disk."""

_SAMPLED: Final = 1.0


async def chaos(
    minutes: float,
    clients: int,
    seed: int,
    rest: float = 2.0,
    pause: float = PAUSE,
    workers: int = 1,
    only: Sequence[str] = ("*",),
) -> Tally:
    """All of it; what was seen."""
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name:
        async with world(Path(name), seed, workers) as around, session(around) as calls:
            until = time.monotonic() + minutes * 60
            async with asyncio.TaskGroup() as group:
                for number in range(clients):
                    dice = random.Random(f"{seed} {number}")
                    client = Client(calls, around.truth, around.tally, dice, until, pause)
                    group.create_task(client.work())
                group.create_task(watch(around, until))
                await inject(around, until, rest, only)
            kept.say("the faults are over")
            await mended(around, calls)
            return around.tally


def session(around: World) -> aiohttp.ClientSession:
    """Connections to the instance."""
    headers = {"OCI-Namespace": SOURCE, "Accept-Encoding": "identity"}
    return aiohttp.ClientSession(
        around.proxy.url,
        headers=headers,
        auto_decompress=False,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
    )


async def watch(around: World, until: float) -> None:
    """Sample the instance's memory; keep the upstream's own from growing."""
    while time.monotonic() < until:
        around.tally.most_memory = max(around.tally.most_memory, around.memory())
        around.upstream.ledger.requests.clear()
        around.upstream.ledger.spans.clear()
        await asyncio.sleep(_SAMPLED)


async def mended(around: World, calls: aiohttp.ClientSession) -> None:
    """With nothing broken any more: every blob is right, whole and in ranges, and the store knows what it holds."""
    dice = random.Random(0)
    client = Client(calls, around.truth, around.tally, dice, 0.0)
    for number in around.truth.listed:
        await client.named(number, HEALED)
    deadline = time.monotonic() + HEALED
    for number, size in enumerate(around.truth.sizes):
        while not await client.whole(number):
            if time.monotonic() > deadline:
                around.tally.wrongs.append(f"blob {number} cannot be had {HEALED:.0f} s after the last fault")
                break
            await asyncio.sleep(0.5)
        for _ in range(5):
            start = dice.randrange(size)
            await client.span(number, Span(start, min(size, start + 100_000)))
    await around.stop()
    found = await around.verify()
    if found["wrong"]:
        around.tally.wrongs.append(f"verify found {found['wrong']} wrong chunks in a store whose blobs were all right")
    await around.start()
    while not (stats := await around.stats())["counted"]:  # noqa: ASYNC110  # nothing tells
        await asyncio.sleep(0.1)
    held, disk = stats["bytes"], used(around.store)
    if held != disk:
        around.tally.wrongs.append(f"the store knows of {held} bytes and has {disk}")


def used(store: Path) -> int:
    """Bytes on disk of chunks and of what is half written."""
    files = [path for name in ("chunks", "tmp") for path in (store / name).rglob("*") if path.is_file()]
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files)


def report(tally: Tally) -> str:
    """Markdown: the faults, the requests, and what must not have happened."""
    faults = table.markdown(("fault", "times"), [(name, str(count)) for name, count in sorted(tally.faults.items())])
    requests = table.markdown(
        ("requests", "times"),
        [
            *((name, str(count)) for name, count in sorted(tally.asked.items())),
            *((f"refused: {name}", str(count)) for name, count in sorted(tally.refused.items())),
            ("asked again", str(tally.retries)),
            ("MB received", table.megabytes(tally.bytes)),
            ("wrong ranges before any digest", str(tally.undigested)),
            ("longest, s", table.seconds(tally.longest)),
            ("most memory, MB", f"{table.megabytes(tally.most_memory)}"),
        ],
    )
    wrongs = tally.wrongs[:20] + ([f"memory: {tally.most_memory} bytes"] if tally.most_memory > MEMORY else [])
    return "\n\n".join((faults, requests, "\n".join(f"- WRONG: {what}" for what in wrongs) or "Nothing wrong."))


def main(words: Sequence[str] | None = None) -> int:
    """Run, keep, print; the exit status says whether anything was wrong."""
    parser = argparse.ArgumentParser(
        prog="loadtest.chaos", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--rest", type=float, default=2.0, help="seconds between two faults, at the most")
    parser.add_argument(
        "--pause", type=float, default=PAUSE, help="seconds between two requests of a client, at the most"
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that answer; beyond one, each may be killed by itself"
    )
    parser.add_argument(
        "--only", nargs="+", default=["*"], help="patterns of faults' names, such as 'upstream *' killed"
    )
    given = parser.parse_args(words)
    kept.say(f"seed {given.seed}")
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # the upstream's own words about those who hang up
    tally = asyncio.run(
        chaos(given.minutes, given.clients, given.seed, given.rest, given.pause, given.workers, given.only)
    )
    kept.keep(
        "chaos",
        {"minutes": given.minutes, "clients": given.clients, "seed": given.seed, "workers": given.workers},
        [{"faults": dict(tally.faults), "requests": dict(tally.asked), "refused": dict(tally.refused), "retries": tally.retries,
          "bytes": tally.bytes, "undigested": tally.undigested, "memory": tally.most_memory, "longest": tally.longest,
          "wrong": tally.wrongs}],
    )  # fmt: skip
    text = report(tally)
    print(text)
    return int("WRONG" in text)


if __name__ == "__main__":
    sys.exit(main())
