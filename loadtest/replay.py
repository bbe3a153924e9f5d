"""Recorded lazy starts, replayed through the proxy: what they cost a ranged upstream, as a multiple of the bytes asked.

    python -m loadtest.replay [--speed 1] [stargz-analysis-optimised …]

`patterns/NAME.jsonl` is one run of a real snapshotter, a line per request: seconds since its start, method, path, range, status,
bytes. The recorded blobs are replaced by noise of their sizes, and every byte of every answer is compared with it.
"""

import argparse
import asyncio
import json
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from loadtest import table
from loadtest.noise import Noise
from registry_proxy.oci.content import OCI_MANIFEST
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.interop.harness.proxy import SOURCE, registry_proxy

PATTERNS: Final = Path(__file__).parent / "patterns"
TARGETS: Final = {"stargz-analysis-optimised": 1.1, "soci-analysis": 1.1, "stargz-analysis-converted": 1.75}
AT_ONCE: Final = 6  # requests: stargz has five open at most, SOCI six
PATIENCE: Final = 60.0  # seconds one request may take, and the upstream to fall silent
SHOWN: Final = 500  # bytes of an answer that should not have come
TAG: Final = "recorded"


class ReplayFailed(Exception):
    """An answer was not what was recorded, or not the blob's bytes."""


@dataclass(frozen=True, slots=True)
class Request:
    """One recorded request. ``at``: seconds; ``blob``: its place in ``Pattern.sizes``; ``span``: None asks for all of it.

    Without a blob it is for a manifest: ``by_tag``, or by digest.
    """

    at: float
    method: str
    blob: int | None = None
    span: Span | None = None
    by_tag: bool = False


@dataclass(frozen=True, slots=True)
class Pattern:
    """A recorded run. ``sizes``: bytes of each blob, the config's first; ``requests``: in the order of their time."""

    name: str
    sizes: tuple[int, ...]
    requests: tuple[Request, ...]

    def spans(self) -> list[tuple[int, Span]]:
        """What bodies were asked for: (blob, span), repeats included."""
        wanted = ((r.blob, r.span) for r in self.requests if r.method == "GET" and r.blob is not None)
        return [(blob, span or Span(0, self.sizes[blob])) for blob, span in wanted if blob is not None]

    @property
    def asked(self) -> int:
        """Bytes of blobs that were asked for, each as often as it was."""
        return sum(len(span) for _, span in self.spans())

    @property
    def distinct(self) -> int:
        """Bytes of blobs that were asked for at least once."""
        by_blob: defaultdict[int, list[Span]] = defaultdict(list)
        for blob, span in self.spans():
            by_blob[blob].append(span)
        return sum(_union(spans) for spans in by_blob.values())


@dataclass(frozen=True, slots=True)
class Image:
    """A pattern's image in an upstream: its manifest, and what each blob of the pattern has become."""

    manifest: Digest
    text: bytes
    digests: tuple[Digest, ...]
    blobs: tuple[Noise, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a replay cost. ``upstream``: bytes of blobs that the upstream sent; ``requests``: how often it was asked for a blob."""

    pattern: Pattern
    upstream: int
    requests: int

    @property
    def ratio(self) -> float:
        """Bytes from the upstream ÷ bytes asked."""
        return self.upstream / self.pattern.asked


def load(name: str) -> Pattern:
    """The recorded run of that name."""
    lines = (PATTERNS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return parse(name, [json.loads(line) for line in lines])


def parse(name: str, recorded: Iterable[dict[str, Any]]) -> Pattern:
    """A run from its lines, which are in the order in which the answers ended."""
    sizes: dict[str, int] = {}
    requests = []
    for line in sorted(recorded, key=lambda line: float(line["t"])):
        kind, _, reference = line["path"].rpartition("/")
        if kind.endswith("/manifests"):
            requests.append(Request(line["t"], line["method"], by_tag=":" not in reference))
            continue
        span, size = _span(line)
        known = sizes.setdefault(reference, 0)
        sizes[reference] = max(known, size)
        requests.append(Request(line["t"], line["method"], list(sizes).index(reference), span))
    return Pattern(name, tuple(sizes.values()), tuple(requests))


def _span(line: dict[str, Any]) -> tuple[Span | None, int]:
    """What one line asked for, and the blob's size as far as it tells."""
    if "range" not in line:
        return None, int(line["bytes"])
    first, _, last = line["range"].removeprefix("bytes=").partition("-")
    return Span(int(first), int(last) + 1), int(line["content_range"].rpartition("/")[2])


def _union(spans: Iterable[Span]) -> int:
    total = reached = 0
    for span in sorted(spans):
        total += max(span.stop - max(span.start, reached), 0)
        reached = max(reached, span.stop)
    return total


def stock(upstream: FakeUpstream, pattern: Pattern) -> Image:
    """Put the pattern's image into an upstream, tagged."""
    blobs = tuple(Noise(size, seed) for seed, size in enumerate(pattern.sizes))
    digests = tuple(blob.digest() for blob in blobs)
    for digest, blob in zip(digests, blobs, strict=True):
        upstream.content[digest] = blob  # type: ignore[assignment]  # all that the fake asks of bytes
        upstream.members.add((REPOSITORY, digest))
    described = [
        {"mediaType": "application/octet-stream", "digest": str(digest), "size": len(blob)}
        for digest, blob in zip(digests, blobs, strict=True)
    ]
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": described[1:]}
    text = json.dumps(manifest).encode()
    return Image(upstream.add_manifest(text, tag=TAG), text, digests, blobs)


async def replay(pattern: Pattern, image: Image, url: str, *, source: str = SOURCE, speed: float = math.inf) -> None:
    """Send the pattern's requests to a proxy and check every byte that comes back.

    In order, at most ``AT_ONCE`` at a time, none before its recorded time divided by ``speed``. ``source``: the source host under
    which the proxy knows the upstream. Raises an ExceptionGroup with ReplayFailed or what aiohttp raises.
    """
    loop = asyncio.get_running_loop()
    free, started = asyncio.Semaphore(AT_ONCE), loop.time()
    headers = {"OCI-Namespace": source, "Accept": OCI_MANIFEST, "Accept-Encoding": "identity"}
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with (
        aiohttp.ClientSession(url, headers=headers, timeout=timeout, auto_decompress=False) as session,
        asyncio.TaskGroup() as group,
    ):

        async def send(request: Request) -> None:
            try:
                await _exchange(session, request, image)
            finally:
                free.release()

        for request in pattern.requests:
            await asyncio.sleep(max(started + (request.at - pattern.requests[0].at) / speed - loop.time(), 0))
            await free.acquire()
            group.create_task(send(request))


async def _exchange(session: aiohttp.ClientSession, request: Request, image: Image) -> None:
    headers = {}
    if request.blob is None:
        path = f"/v2/{REPOSITORY}/manifests/{TAG if request.by_tag else image.manifest}"
    else:
        path = f"/v2/{REPOSITORY}/blobs/{image.digests[request.blob]}"
    if request.span is not None:
        headers["Range"] = f"bytes={request.span.start}-{request.span.stop - 1}"
    async with session.request(request.method, path, headers=headers) as response:
        wanted = 206 if request.span is not None else 200
        if response.status != wanted:
            said = (await response.content.read(SHOWN)).decode(errors="replace")
            raise ReplayFailed(f"{request.method} {path} {headers}: {response.status}, not {wanted}: {said}")
        if request.method == "GET" and request.blob is not None:
            await _compare(response, image.blobs[request.blob], request.span)


async def _compare(response: aiohttp.ClientResponse, blob: Noise, span: Span | None) -> None:
    """Read a body; raises ReplayFailed unless it is exactly the span's bytes."""
    at, stop = (span.start, span.stop) if span is not None else (0, len(blob))
    async for piece in response.content.iter_any():
        if piece != blob[at : at + len(piece)] or at + len(piece) > stop:
            raise ReplayFailed(f"{response.url}: wrong bytes between {at} and {at + len(piece)}")
        at += len(piece)
    if at != stop:
        raise ReplayFailed(f"{response.url}: ended at {at}, not at {stop}")


async def cost(upstream: FakeUpstream, pattern: Pattern, image: Image) -> Cost:
    """What the upstream has sent of the image, once it has fallen silent; raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while upstream.ledger.running:  # noqa: ASYNC110  (the ledger tells of requests and bytes, not of ends)
            await asyncio.sleep(0.01)
    sent = sum(upstream.sent(digest) for digest in image.digests)
    return Cost(pattern, sent, len(upstream.asked("blob", "GET")))


async def measure(name: str, speed: float = math.inf) -> Cost:
    """Replay one pattern against a fresh proxy, a process of its own, in front of a ranged upstream."""
    pattern = load(name)
    async with FakeUpstream() as upstream:
        image = stock(upstream, pattern)
        with tempfile.TemporaryDirectory(prefix="rp-replay-") as directory:
            running = registry_proxy(Path(directory), {SOURCE: upstream.url})
            proxy = await asyncio.to_thread(running.__enter__)
            try:
                await replay(pattern, image, proxy.url, speed=speed)
                return await cost(upstream, pattern, image)
            finally:
                await asyncio.to_thread(running.__exit__, None, None, None)


def report(costs: Iterable[Cost]) -> str:
    """The figures of several replays as a table, each beside its target."""
    head = (
        "pattern",
        "requests",
        "upstream requests",
        "asked MB",
        "distinct MB",
        "upstream MB",
        "upstream ÷ asked",
        "÷ distinct",
    )
    return table.markdown(head, [_line(cost) for cost in costs])


def _line(cost: Cost) -> Sequence[str]:
    pattern, target = cost.pattern, TARGETS.get(cost.pattern.name)
    judged = f"{cost.ratio:.2f}" if target is None else table.verdict(cost.upstream, pattern.asked, target)
    volumes = (table.megabytes(count) for count in (pattern.asked, pattern.distinct, cost.upstream))
    counts = (str(len(pattern.requests)), str(cost.requests))
    return (pattern.name, *counts, *volumes, judged, f"{cost.upstream / pattern.distinct:.2f}")


def main(words: Sequence[str] | None = None) -> int:
    """Replay what the command line names; the exit status says whether every target was met."""
    every = sorted(path.stem for path in PATTERNS.glob("*.jsonl"))
    parser = argparse.ArgumentParser(
        prog="loadtest.replay", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pattern", nargs="*", metavar="PATTERN", help=f"all without one: {', '.join(every)}")
    parser.add_argument(
        "--speed", type=float, default=math.inf, help="1: at the recorded times; default: as fast as answers come"
    )
    given = parser.parse_args(words)
    if unknown := set(given.pattern) - set(every):
        parser.error(f"no such pattern: {', '.join(sorted(unknown))}")
    costs = [asyncio.run(measure(name, given.speed)) for name in given.pattern or every]
    print(report(costs))
    return int(any(cost.ratio > TARGETS.get(cost.pattern.name, math.inf) for cost in costs))


if __name__ == "__main__":
    sys.exit(main())
