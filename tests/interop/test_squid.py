"""Edge → Squid → parent → a registry without byte ranges: what the Squid keeps, what the parent is spared, what goes wrong.

The Squid is Debian's, with its packaged configuration and the lines of conf/squid.
"""

import contextlib
import hashlib
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.interop.harness.clients import crane_pull
from tests.interop.harness.containerd import missing
from tests.interop.harness.front import Front, front
from tests.interop.harness.meddler import meddler
from tests.interop.harness.process import wait_for
from tests.interop.harness.proxy import SOURCE, Proxy, registry_proxy
from tests.interop.harness.registries import PASSWORD, USER, Image, htpasswd, registry
from tests.interop.harness.squid import LINES, PACKAGED, Passed, Squid, squid

TIMEOUT = 5.0  # seconds: forward_proxies.timeout
CHUNK = 1 << 20
PACED = "delay_pools 1\ndelay_class 1 1\ndelay_access 1 allow all\ndelay_parameters 1 4000000/4000000"
SLOW = "delay_pools 1\ndelay_class 1 1\ndelay_access 1 allow all\ndelay_parameters 1 8000/8000"
CRAMPED = "cache_mem 3 MB"
ACCOUNT = """
[upstream."{source}"]
urls = ["{url}"]
repositories = ["library/*"]
account = {{ username = "{user}", password = "{password}" }}
"""


@pytest.fixture
def parent(gitlab: Front, work: Path) -> Iterator[Proxy]:
    """The instance that is a parent, in front of the registry without ranges, cold."""
    work.chmod(0o755)
    with registry_proxy(work / "parent", {SOURCE: gitlab.url}) as running:
        yield running


@pytest.fixture
def counted(parent: Proxy, work: Path) -> Iterator[Front]:
    """The parent behind an nginx that counts."""
    with front(parent.address, work) as running:
        yield running


@contextlib.contextmanager
def edge(work: Path, name: str, upstream: Front, parent: str, forward_proxies: str) -> Iterator[Proxy]:
    """An instance that asks a parent first."""
    words = ("--parent", parent, "--forward-proxies", forward_proxies)
    with registry_proxy(work / name, {SOURCE: upstream.url}, *words) as running:
        yield running


def layer(image: Image) -> tuple[str, int]:
    """The digest and size of the largest layer."""
    return max(((digest, image.digests[digest]) for digest in image.layer_digests), key=lambda each: each[1])


def blob_url(proxy: Proxy, image: Image, digest: str) -> str:
    """A blob by an edge."""
    return f"{proxy.url}/v2/{SOURCE}/{image.repository}/blobs/{digest}"


def read(url: str, during: Callable[[int], None] = lambda _: None) -> tuple[str, int, float]:
    """The digest, the size and the longest pause of what comes; `during` is called with the bytes so far."""
    hasher, size, pause, last = hashlib.sha256(), 0, 0.0, time.monotonic()
    with urllib.request.urlopen(url, timeout=60) as response:
        while data := response.read(256 << 10):
            pause, last = max(pause, time.monotonic() - last), time.monotonic()
            hasher.update(data)
            size += len(data)
            during(size)
    return f"sha256:{hasher.hexdigest()}", size, pause


def asked_for_chunks(counted: Front) -> Counter[str]:
    """How often the parent sent each chunk."""
    return Counter(seen.uri for seen in counted.requests() if "/chunks/" in seen.uri and seen.status == 200
                   and not seen.uri.endswith("/hashes"))  # fmt: skip


def blob_bytes(upstream: Front) -> int:
    """Bytes of blobs that the registry sent."""
    return sum(seen.sent for seen in upstream.requests() if "/blobs/" in seen.uri and seen.method == "GET")


def test_the_lines_of_conf_squid_are_taken_without_a_word(tmp_path: Path) -> None:
    """Debian's Squid accepts its packaged configuration with our lines, as the compose file mounts them."""
    file = tmp_path / "squid.conf"
    file.write_text(PACKAGED.read_text().replace("/etc/squid/conf.d/*.conf", str(LINES)))
    done = subprocess.run(["squid", "-k", "parse", "-f", file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "ERROR" in line or "WARNING" in line]


def test_a_warm_squid_spares_the_parent(
    gitlab: Front, counted: Front, pushed: dict[str, Image], work: Path, figure: Callable[[str], None]
) -> None:
    """The first edge fills the Squid; a second cold one gets every chunk from there: none from the parent or the registry."""
    image = pushed["py"]
    blobs = [size for digest, size in image.digests.items() if digest != image.manifest_digest]
    expected = sum(-(-size // CHUNK) for size in blobs)
    with squid(work) as site:
        for name in ("first", "second"):
            site.forget()
            counted.forget()
            gitlab.forget()
            with edge(work, name, gitlab, counted.url, f"{site.url};DIRECT") as proxy:
                began = time.monotonic()
                copied = crane_pull(f"{proxy.address}/{SOURCE}/{image.repository}:latest", work / f"{name}-copy")
                assert missing(copied, image.digests) == "{}"
                seconds = time.monotonic() - began
            wait_for("the log is written", lambda: len(site.chunks()) >= expected)
            chunks = [each for each in site.chunks() if each.status == 200]
            hits = [each for each in chunks if each.is_hit]
            figure(f"{name} edge by Squid: {seconds:.1f} s, {len(chunks)} chunks, {len(hits)} hits,"
                   f" {sum(asked_for_chunks(counted).values())} from the parent, {blob_bytes(gitlab) / 1e6:.1f} MB from"
                   " the registry")  # fmt: skip
            if name == "first":
                assert set(asked_for_chunks(counted).values()) == {1}
        assert len({each.url for each in chunks}) == len(chunks) == expected
        assert hits == chunks
        assert not asked_for_chunks(counted)
        assert blob_bytes(gitlab) == 0


def test_ten_cold_edges_at_once(
    gitlab: Front, counted: Front, pushed: dict[str, Image], work: Path, figure: Callable[[str], None]
) -> None:
    """Ten edges that want a cold layer in one moment cost the parent each chunk once, and the registry the layer once."""
    image = pushed["py"]
    digest, size = layer(image)
    with squid(work) as site, contextlib.ExitStack() as stack:
        edges = [
            stack.enter_context(edge(work, f"edge{n}", gitlab, counted.url, f"{site.url};DIRECT")) for n in range(10)
        ]
        for each in edges:
            crane_manifest(each, image)
        with ThreadPoolExecutor(10) as pool:
            got = list(pool.map(lambda each: read(blob_url(each, image, digest))[:2], edges))
        assert set(got) == {(digest, size)}
        times = asked_for_chunks(counted)
        assert len(times) == -(-size // CHUNK)
        figure(f"ten cold edges at once: {len(times)} chunks, sent {sum(times.values())} times by the parent,"
               f" {blob_bytes(gitlab) / size:.2f} layers from the registry")  # fmt: skip
        assert set(times.values()) == {1}
        assert blob_bytes(gitlab) < 1.01 * size


def crane_manifest(proxy: Proxy, image: Image) -> None:
    """Asks for the manifest, as every client does first."""
    url = f"{proxy.url}/v2/{SOURCE}/{image.repository}/manifests/latest"
    with urllib.request.urlopen(url, timeout=30) as response:
        assert response.status == 200


@pytest.mark.parametrize("last", [";DIRECT", ""], ids=["direct", "upstream"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_squid_gone(
    number: signal.Signals,
    last: str,
    gitlab: Front,
    counted: Front,
    pushed: dict[str, Image],
    work: Path,
    figure: Callable[[str], None],
) -> None:
    """A Squid that dies or hangs under a reader costs a pause within the limit: then the parent is asked straight, or the
    registry is where nothing may go straight."""
    image = pushed["py"]
    digest, size = layer(image)
    with (
        squid(work, more=PACED) as site,
        edge(work, "edge", gitlab, counted.url, site.url + last) as proxy,
    ):
        passed: list[Passed] = []

        def end(sofar: int) -> None:
            if sofar > 2 * CHUNK and not passed:
                site.process.signal(number)
                passed.extend(site.chunks())

        began = time.monotonic()
        found, got, pause = read(blob_url(proxy, image, digest), end)
        site.process.kill()
        assert (found, got) == (digest, size)
        assert 0 < len(passed) < size // CHUNK / 2
        assert pause < TIMEOUT + 1
        assert (len(asked_for_chunks(counted)) == -(-size // CHUNK)) == bool(last)
        figure(f"Squid {number.name} under a reader ({last or 'no DIRECT'}): longest pause {pause:.2f} s,"
               f" {time.monotonic() - began:.1f} s in all")  # fmt: skip


def test_squid_slow(
    gitlab: Front, counted: Front, pushed: dict[str, Image], work: Path, figure: Callable[[str], None]
) -> None:
    """A Squid that trickles is given up on after the time over which the speed is judged, and not asked again."""
    image = pushed["py"]
    digest, size = layer(image)
    with (
        squid(work, more=SLOW) as site,
        edge(work, "edge", gitlab, counted.url, f"{site.url};DIRECT") as proxy,
    ):
        began = time.monotonic()
        found, got, pause = read(blob_url(proxy, image, digest))
        assert (found, got) == (digest, size)
        seconds = time.monotonic() - began
        figure(f"slow Squid: longest pause {pause:.2f} s, {seconds:.1f} s for {size / 1e6:.0f} MB")
        assert pause < TIMEOUT + 1
        assert seconds < 3 * TIMEOUT
        assert len(asked_for_chunks(counted)) == -(-size // CHUNK)


def test_squid_full(gitlab: Front, counted: Front, pushed: dict[str, Image], work: Path) -> None:
    """A Squid with room for three chunks is of no use and does no harm."""
    image = pushed["py"]
    digest, size = layer(image)
    with squid(work, more=CRAMPED) as site:
        for name in ("first", "second"):
            with edge(work, name, gitlab, counted.url, f"{site.url};DIRECT") as proxy:
                found, got, pause = read(blob_url(proxy, image, digest))
                assert (found, got) == (digest, size)
                assert pause < TIMEOUT
        assert sum(each.is_hit for each in site.chunks()) <= 3


@pytest.mark.parametrize("mode", ["flip", "forge"])
def test_squid_poisoned(
    mode: str, gitlab: Front, parent: Proxy, pushed: dict[str, Image], work: Path, figure: Callable[[str], None]
) -> None:
    """Wrong bytes that a Squid keeps are never served, whether their Repr-Digest tells or only the parent's own list of
    hashes; asked for past the cache, the Squid keeps the right ones."""
    image = pushed["py"]
    digest, size = layer(image)
    assert read(blob_url(parent, image, digest))[:2] == (digest, size)  # so that the parent has verified it
    with squid(work) as site, meddler(parent.address) as between:
        between.mode = mode  # type: ignore[assignment]
        poison(site, between.url, image, digest, 5)
        assert between.meddled == 5
        wait_for("the log is written", lambda: len(site.chunks()) == 5)
        between.mode = "honest"
        site.forget()
        with edge(work, "edge", gitlab, between.url, site.url) as proxy:
            found, got, pause = read(blob_url(proxy, image, digest))
            assert (found, got) == (digest, size)
            assert pause < TIMEOUT
        total = -(-size // CHUNK)
        wait_for("the log is written", lambda: len(site.chunks()) >= total + 5)
        answers = Counter(each.url for each in site.chunks() if each.status == 200)
        assert sorted(answers.values())[-6:] == [1, 2, 2, 2, 2, 2]
        site.forget()
        with edge(work, "next", gitlab, between.url, site.url) as proxy:
            assert read(blob_url(proxy, image, digest))[:2] == (digest, size)
        wait_for("the log is written", lambda: len(site.chunks()) >= total)
        assert all(each.is_hit for each in site.chunks())
        figure(f"poisoned Squid ({mode}): 5 chunks healed")


def poison(site: Squid, origin: str, image: Image, digest: str, chunks: int) -> None:
    """Has the Squid fetch some chunks, as an edge would."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": site.url}))
    for index in range(chunks):
        url = f"{origin}/chunks/v1/{digest.replace(':', '/')}/{CHUNK}/{index}"
        headers = {"OCI-Namespace": SOURCE, "OCI-Repository": image.repository}
        with opener.open(urllib.request.Request(url, headers=headers), timeout=30) as response:
            assert response.status == 200
            response.read()


def test_private_blobs_stay_away(storage: Path, pushed: dict[str, Image], work: Path) -> None:
    """What is pulled with an account never passes a Squid, and a parent gives it to nobody as chunks."""
    work.chmod(0o755)
    image = pushed["py"]
    digest, size = layer(image)
    with registry(storage, work, htpasswd(work)) as address, squid(work) as site:
        config = work / "account.toml"
        text = ACCOUNT.format(source=SOURCE, url=f"http://{address}", user=USER, password=PASSWORD)
        config.write_text(text, encoding="utf-8")
        with registry_proxy(work / "parent", {}, "--config", config) as parent:
            words = ("--config", config, "--parent", parent.url, "--forward-proxies", site.url)
            with registry_proxy(work / "edge", {}, *words) as proxy:
                for each in (proxy, parent):
                    assert read(blob_url(each, image, digest))[:2] == (digest, size)
            assert not site.passed()
            with pytest.raises(urllib.error.HTTPError) as caught:
                poison(site, parent.url, image, digest, 1)
            caught.value.close()
            assert caught.value.code == 404
