"""The page of an instance in a real browser."""

import re
import subprocess
import urllib.request
from pathlib import Path

from tests.interop.harness.front import Front
from tests.interop.harness.proxy import SOURCE, registry_proxy
from tests.interop.harness.registries import Image

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--virtual-time-budget=6000", "--dump-dom",
)  # fmt: skip


def test_the_page_tells_what_the_instance_does(gitlab: Front, pushed: dict[str, Image], work: Path) -> None:
    """Chromium runs the page's own script under its policy: store, upstreams, sources and conversions are there, and nothing was
    blocked."""
    image = pushed["tiny"]
    blob = next(iter(image.layer_digests))
    with registry_proxy(work / "proxy", {SOURCE: gitlab.url}, "--parent", "http://127.0.0.1:9") as proxy:
        with urllib.request.urlopen(f"{proxy.url}/v2/{SOURCE}/{image.repository}/blobs/{blob}", timeout=30) as answer:
            answer.read()
        lazy = f"{proxy.url}/v2/{SOURCE}/{image.repository}/manifests/latest-esgz"
        with urllib.request.urlopen(lazy, timeout=60) as answer:
            answer.read()
        command = [
            "chromium",
            *QUIET,
            f"--user-data-dir={work / 'profile'}",
            "--enable-logging=stderr",
            f"{proxy.url}/",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    page = re.sub(r"\s+", " ", done.stdout)
    assert ">ready</p>" in page
    assert re.search(r'id="store">[\d.]+ (B|KiB|MiB) of [\d.]+ GiB, [1-9]\d* chunks<', page)
    assert f"<td>{SOURCE}</td>" in page
    assert re.search(r'<td class="bad">trouble: [^<]+</td>', page)  # the parent does not answer
    assert ">Lazy jobs</h2>" in page
    assert re.search(r"<td>upstream</td><td>[\d.]+ MiB</td><td>[\d.]+%</td>", page)  # served: how much, and its share
    assert "<th>misses</th>" in page  # the words of `registry-proxy stats`
    assert re.search(r'<td>estargz-[0-9a-f]{16}</td>.*?<td class="good">done</td>', page)
    assert f"{proxy.address}/docker.io/library/alpine" in page
    assert "Content Security Policy" not in done.stderr
