"""What it costs to compare the chunks of a layer that is read in part with its table of contents, and what readers notice of it.

    python -m loadtest.partial [--rounds 5]

First table: processor time for every frame of the images `analysis-esgz` and `py-zstdchunked` (`python -m tests.setup image NAME` makes
them), and of `analysis` by zTOCs made on the spot. Second table: the recorded start of `stargz-analysis-optimised`, its requests laid
over the real image `analysis-esgz`, through a fresh proxy behind a link of 20 MB/s and 20 ms, with each setting of `verify_chunks` in
turn: seconds until the last byte, processor time of the proxy once nothing is left to compare, bytes over the link.
"""

import argparse
import asyncio
import os
import re
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from loadtest import table
from loadtest.link import Link, Shape
from loadtest.replay import TAG, Image, Pattern, Request, cost, load, replay
from registry_proxy.lazy import layers
from registry_proxy.lazy.frames import Frames
from registry_proxy.lazy.ztoc import ztoc
from registry_proxy.lazy.ztoc.builder import ZtocBuilder
from registry_proxy.plan.chunks import Span
from tests.fakes.upstream import FakeUpstream
from tests.interop.harness.proxy import SOURCE, Proxy, registry_proxy
from tests.setup import images
from tests.setup import layout as oci

PATTERN: Final = "stargz-analysis-optimised"
IMAGE: Final = "analysis-esgz"
MODES: Final = ("off", "behind", "before")
LINK: Final = Shape(rate=20e6, rtt=0.02)
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_QUIET: Final = 4.0  # seconds without processor time after which nothing is left to do


@dataclass(frozen=True, slots=True)
class Comparison:
    """All layers of an image compared. ``toc``, ``cpu``: processor seconds to decode the TOCs, and to compare; ``covered``: bytes."""

    form: str
    size: int
    frames: int
    covered: int
    toc: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Start:
    """One lazy start: ``wall``: until the last byte; ``cpu``: of the proxy, seconds; ``sent``: bytes over the link."""

    mode: str
    wall: float
    cpu: float
    sent: int
    compared: int


def compare(name: str) -> Comparison:
    """Compare every frame of an image that carries TOCs, or of an ordinary one by zTOCs."""
    total = Comparison(name, 0, 0, 0, 0.0, 0.0)
    for data, (frames, seconds) in _decoded(name):
        began = time.process_time()
        wrong = [number for number in range(len(frames)) if not frames.is_right(number, _bytes(data, frames, number))]
        spent = time.process_time() - began
        if wrong:
            raise SystemExit(f"{name}: {len(wrong)} frames are not what their TOC says")
        total = Comparison(
            name,
            total.size + len(data),
            total.frames + len(frames),
            total.covered + sum(len(frames.spans[number]) for number in range(len(frames))),
            total.toc + seconds,
            total.cpu + spent,
        )
    return total


def _bytes(data: bytes, frames: Frames, number: int) -> bytes:
    span = frames.spans[number]
    return data[span.start : span.stop]


def _decoded(name: str) -> Iterator[tuple[bytes, tuple[Frames, float]]]:
    """Each layer with its frames, and the processor time that decoding took."""
    layout = images.layout(name)
    for described in oci.manifest(layout)["layers"]:
        data = oci.blob(layout, described["digest"]).read_bytes()
        named = layers.proving(described.get("annotations", {}))
        packed = b"" if named else _ztoc(data)
        began = time.process_time()
        if named:
            last = layers.tail(len(data), named)
            toc = layers.toc(len(data), named, data[last.start : last.stop] if last else b"")
            frames = toc.frames(data[toc.span.start : toc.span.stop])
        else:
            frames = ztoc.frames(ztoc.parse(packed, files=False))
        yield data, (frames, time.process_time() - began)


def _ztoc(data: bytes) -> bytes:
    with ZtocBuilder() as builder:
        builder.feed(data)
        return ztoc.encode(builder.finish())


def fitted(pattern: Pattern, sizes: Sequence[int]) -> Pattern:
    """The recorded requests for blobs of other sizes, each the recorded one's equal in rank: what was read at a blob's end is."""
    ranks = sorted(range(len(sizes)), key=sizes.__getitem__)
    order = sorted(range(len(sizes)), key=pattern.sizes.__getitem__)
    target = dict(zip(order, ranks, strict=True))

    def moved(request: Request) -> Request:
        if request.blob is None:
            return request
        was, now = pattern.sizes[request.blob], sizes[target[request.blob]]
        span = request.span
        if span is not None:
            shift = now - was if span.start > was * 0.95 else 0
            start = min(max(span.start + shift, 0), now - 1)
            span = Span(start, min(max(span.stop + shift, start + 1), now))
        return replace(request, blob=target[request.blob], span=span)

    return Pattern(pattern.name, tuple(sizes), tuple(map(moved, pattern.requests)))


def stock(upstream: FakeUpstream) -> Image:
    """Put the real image into an upstream, tagged; its config comes first."""
    layout = images.layout(IMAGE)
    manifest = oci.manifest(layout)
    text = oci.blob(layout, oci.manifest_digest(layout)).read_bytes()
    described = [manifest["config"], *manifest["layers"]]
    blobs = [oci.blob(layout, one["digest"]).read_bytes() for one in described]
    digests = tuple(upstream.add_blob(blob) for blob in blobs)
    return Image(upstream.add_manifest(text, tag=TAG), text, digests, tuple(blobs))  # type: ignore[arg-type]


async def start(mode: str, upstream: FakeUpstream, image: Image) -> Start:
    """One lazy start through a fresh proxy."""
    pattern = fitted(load(PATTERN), [len(blob) for blob in image.blobs])
    before = sum(upstream.sent(digest) for digest in image.digests)
    host, port = upstream.host.split(":")
    with tempfile.TemporaryDirectory(prefix="rp-partial-") as directory:
        config = Path(directory) / "proxy.toml"
        config.write_text(f'[lazy]\nverify_chunks = "{mode}"\n')
        async with Link((host, int(port)), LINK).listening() as link:
            url = f"http://{link.address[0]}:{link.address[1]}"
            running = registry_proxy(Path(directory), {SOURCE: url}, "--config", config)
            proxy = await asyncio.to_thread(running.__enter__)
            try:
                idle, began = _cpu(proxy), time.perf_counter()
                await replay(pattern, image, proxy.url)
                wall = time.perf_counter() - began
                spent = await asyncio.to_thread(_spent, proxy, idle)
                sent = (await cost(upstream, pattern, image)).upstream - before
                return Start(mode, wall, spent, sent, await asyncio.to_thread(_compared, proxy.url))
            finally:
                await asyncio.to_thread(running.__exit__, None, None, None)


def _spent(proxy: Proxy, idle: float) -> float:
    """Processor seconds of the proxy since it was idle, once it is so again."""
    spent = _cpu(proxy)
    while True:
        time.sleep(_QUIET)
        now = _cpu(proxy)
        if now - spent < 0.05:
            return spent - idle
        spent = now


def _cpu(proxy: Proxy) -> float:
    fields = Path(f"/proc/{proxy.process.popen.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _compared(url: str) -> int:
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        found = re.search(rb'frames_compared_total\{right="true"\} ([\d.e+]+)', answer.read())
    return int(float(found[1])) if found else 0


async def starts(rounds: int) -> list[Start]:
    """So many rounds, the settings in turn."""
    async with FakeUpstream() as upstream:
        image = stock(upstream)
        return [await start(mode, upstream, image) for _ in range(rounds) for mode in MODES]


def report(compared: Sequence[Comparison], started: Sequence[Start]) -> str:
    """Both tables."""
    first = table.markdown(
        ("image", "layers MB", "frames", "covered", "TOCs s", "ms per MB"),
        [
            (
                one.form,
                table.megabytes(one.size),
                f"{one.frames:,}",
                f"{one.covered / one.size:.1%}",
                f"{one.toc:.2f}",
                f"{one.cpu * 1e9 / one.covered:.1f}",
            )
            for one in compared
        ],
    )
    second = table.markdown(
        ("verify_chunks", "ready s", "from to s", "CPU s", "link MB", "frames"),
        [_row(mode, [one for one in started if one.mode == mode]) for mode in MODES],
    )
    return f"{first}\n\n{second}"


def _row(mode: str, runs: Sequence[Start]) -> Sequence[str]:
    walls = [one.wall for one in runs]
    return (
        mode,
        f"{statistics.median(walls):.2f}",
        f"{min(walls):.2f} {max(walls):.2f}",
        f"{statistics.median(one.cpu for one in runs):.2f}",
        table.megabytes(statistics.median(one.sent for one in runs)),
        f"{statistics.median(one.compared for one in runs):,.0f}",
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="loadtest.partial", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    compared = [compare(name) for name in (IMAGE, "py-zstdchunked", "analysis")]
    print(report(compared, asyncio.run(starts(given.rounds))))


if __name__ == "__main__":
    main()
