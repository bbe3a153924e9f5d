"""Mixed work for hours: memory, open files and threads of the proxy must stay where they are, and every byte be right.

    python -m loadtest.soak [--minutes 60] [--clients 20]

The store holds a third of what the clients ask for, so it evicts all the time. Clients ask for manifests, whole blobs, single and
several ranges, and leave in the middle of answers. Samples are taken every few seconds; what counts is the median of the last
quarter against that of the second (the first warms up).
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import aiohttp

from loadtest import kept, table
from loadtest.replay import Image, Pattern, stock
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.interop.harness.proxy import SOURCE, Proxy, registry_proxy

SIZES: Final = tuple(5_000_000 + 1_234_567 * number for number in range(24))
LIMIT: Final = sum(SIZES) // 3
GROWTH: Final = 1.05  # last quarter ÷ second
EVERY: Final = 5.0  # seconds between samples
ANSWER: Final = 60.0  # seconds that one request may take


@dataclass(frozen=True, slots=True)
class Sample:
    """The proxy at one moment. ``rss``, ``stored``: bytes; ``at``: seconds since the start."""

    at: float
    rss: int
    files: int
    threads: int
    stored: int


class WrongBytes(Exception):
    """An answer was complete and not what it should be."""


def sample(proxy: Proxy, began: float) -> Sample:
    """Look at the process and its store."""
    process = Path(f"/proc/{proxy.process.popen.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text(encoding="ascii").splitlines())
    chunks = (Path(where, name) for where, _, names in os.walk(proxy.store / "chunks") for name in names)
    stored = sum(map(_allocated, chunks))
    return Sample(
        time.monotonic() - began,
        int(status["VmRSS"].split()[0]) * 1024,
        len(list((process / "fd").iterdir())),
        int(status["Threads"]),
        stored,
    )


def _allocated(path: Path) -> int:
    """Bytes on disk of a file; none if it has been evicted meanwhile."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


async def client(session: aiohttp.ClientSession, image: Image, seed: int, until: float, counts: Counter[str]) -> None:
    """One client: a random thing at a time. Raises WrongBytes."""
    dice = random.Random(seed)
    ways = (_manifest, _whole, _range, _range, _range, _parts, _leave)
    while time.monotonic() < until:
        way = dice.choice(ways)
        try:
            async with asyncio.timeout(ANSWER):
                await way(session, image, dice)
            counts[way.__name__.lstrip("_")] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            counts[f"failed: {type(error).__name__}"] += 1


async def _manifest(session: aiohttp.ClientSession, image: Image, _: random.Random) -> None:
    async with session.get(f"/v2/{REPOSITORY}/manifests/{image.manifest}") as answer:
        _same(await answer.read(), image.text, answer.status == 200)


async def _whole(session: aiohttp.ClientSession, image: Image, dice: random.Random) -> None:
    number = dice.randrange(len(SIZES))
    async with session.get(f"/v2/{REPOSITORY}/blobs/{image.digests[number]}") as answer:
        at = 0
        async for data in answer.content.iter_any():
            _same(data, image.blobs[number][at : at + len(data)], answer.status == 200)
            at += len(data)
        _same(at.to_bytes(8), SIZES[number].to_bytes(8), True)


async def _range(session: aiohttp.ClientSession, image: Image, dice: random.Random) -> None:
    number = dice.randrange(len(SIZES))
    start = dice.randrange(SIZES[number])
    stop = min(SIZES[number], start + dice.choice((1, 1000, 65536, 3_000_000)))
    headers = {"Range": f"bytes={start}-{stop - 1}"}
    async with session.get(f"/v2/{REPOSITORY}/blobs/{image.digests[number]}", headers=headers) as answer:
        _same(await answer.read(), image.blobs[number][start:stop], answer.status == 206)


async def _parts(session: aiohttp.ClientSession, image: Image, dice: random.Random) -> None:
    number = dice.randrange(len(SIZES))
    starts = [dice.randrange(SIZES[number] - 1000) for _ in range(dice.randint(2, 40))]
    headers = {"Range": "bytes=" + ",".join(f"{start}-{start + 999}" for start in starts)}
    async with session.get(f"/v2/{REPOSITORY}/blobs/{image.digests[number]}", headers=headers) as answer:
        body = await answer.read()
        for start in starts:
            _same(body, body, image.blobs[number][start : start + 1000] in body)


async def _leave(session: aiohttp.ClientSession, image: Image, dice: random.Random) -> None:
    number = dice.randrange(len(SIZES))
    async with session.get(f"/v2/{REPOSITORY}/blobs/{image.digests[number]}") as answer:
        await answer.content.read(dice.randrange(1, 2_000_000))
        answer.close()


def _same(found: bytes, wanted: bytes, proper: bool) -> None:
    if not proper or found != wanted:
        raise WrongBytes(f"{len(found)} bytes where {len(wanted)} others were due")


async def soak(minutes: float, clients: int) -> tuple[list[Sample], Counter[str]]:
    """Work for so long; the samples, and what was done how often."""
    samples: list[Sample] = []
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name:
        async with FakeUpstream() as upstream:
            image = stock(upstream, Pattern("soak", SIZES, ()))
            with registry_proxy(Path(name), {SOURCE: upstream.url}, f"--store-limit={LIMIT}") as proxy:
                began = time.monotonic()
                until = began + minutes * 60
                headers = {"OCI-Namespace": SOURCE, "Accept-Encoding": "identity"}
                connector = aiohttp.TCPConnector(limit=0)
                async with (
                    aiohttp.ClientSession(
                        proxy.url, headers=headers, auto_decompress=False, connector=connector
                    ) as session,
                    asyncio.TaskGroup() as group,
                ):
                    for seed in range(clients):
                        group.create_task(client(session, image, seed, until, counts))
                    while time.monotonic() < until:
                        await asyncio.sleep(EVERY)
                        samples.append(await asyncio.to_thread(sample, proxy, began))
                        upstream.ledger.requests.clear()  # the upstream would be what grows
                        upstream.ledger.spans.clear()
                        if len(samples) % 60 == 0:
                            kept.say(f"{samples[-1]} {sum(counts.values())} requests")
    return samples, counts


def report(samples: Sequence[Sample], counts: Counter[str]) -> str:
    """The quarters of the run beside each other, and the requests."""
    rows = []
    for name in ("rss", "files", "threads", "stored"):
        quarter = len(samples) // 4
        parts = [samples[quarter * number : quarter * (number + 1)] for number in range(4)]
        values = [table.median(getattr(one, name) for one in part) or 0.0 for part in parts]
        limit = GROWTH if name in {"rss", "files", "threads"} else LIMIT / (values[1] or 1)
        unit = 1e6 if name in {"rss", "stored"} else 1
        cells = [f"{value / unit:.1f}" for value in values]
        rows.append([name, *cells, f"{max(getattr(one, name) for one in samples) / unit:.1f}",
                     table.verdict(values[3], values[1], limit)])  # fmt: skip
    head = ("", "1st quarter", "2nd", "3rd", "4th", "most", "4th ÷ 2nd")
    return table.markdown(head, rows) + "\n\n" + json.dumps(dict(counts))


def main(words: Sequence[str] | None = None) -> int:
    """Soak, keep, print; the exit status says whether anything grew or failed."""
    parser = argparse.ArgumentParser(
        prog="loadtest.soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=20)
    given = parser.parse_args(words)
    samples, counts = asyncio.run(soak(given.minutes, given.clients))
    kept.keep("soak", {"minutes": given.minutes, "requests": dict(counts)}, [asdict(one) for one in samples])
    text = report(samples, counts)
    print(text)
    return int("MISSED" in text or "failed" in text)


if __name__ == "__main__":
    sys.exit(main())
