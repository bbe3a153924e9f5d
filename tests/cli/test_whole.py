"""The commands together, as processes: serve, warm, stats, verify, check against an upstream that counts."""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.lazy.layers import estargz

LAYERS = [b"first" * 500_000, b"second" * 10_000]
IMAGE = f"a.example/{REPOSITORY}:v1"


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        fake.add_image(layers=LAYERS, tag="v1")
        yield fake


async def start(*tokens: str, cache: Path) -> asyncio.subprocess.Process:
    environ = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "registry_proxy", *tokens,
        env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def finish(*tokens: str, cache: Path) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    process = await start(*tokens, cache=cache)
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_warm_without_a_server_fills_the_store(
    upstream: FakeUpstream, tmp_path: Path, unused_tcp_port: int
) -> None:
    """warm runs an instance of its own; what it stored is all there, and right."""
    options = ("--listen", f"127.0.0.1:{unused_tcp_port}", "--upstream", f"a.example={upstream.url}", "--json")
    code, out, err = await finish("warm", IMAGE, *options, cache=tmp_path)
    assert (code, err) == (0, "")
    [image] = json.loads(out)["images"]
    assert (image["manifests"], image["blobs"], image["error"]) == (1, 3, None)
    assert image["bytes"] > sum(map(len, LAYERS))
    code, out, _ = await finish("verify", "--json", cache=tmp_path)
    found = json.loads(out)
    assert (code, found["wrong"]) == (0, 0)
    assert found["bytes"] >= sum(map(len, LAYERS))


async def test_a_running_instance_is_warmed_and_asked(
    upstream: FakeUpstream, tmp_path: Path, unused_tcp_port: int
) -> None:
    """serve runs until SIGTERM; meanwhile warm goes through it, stats shows what it holds, a second one is refused."""
    address, named = f"127.0.0.1:{unused_tcp_port}", f"a.example={upstream.url}"
    serving = await start("serve", "--listen", address, "--upstream", named, cache=tmp_path)
    assert serving.stderr is not None
    try:
        while b"server.ready" not in await asyncio.wait_for(serving.stderr.readline(), 30):
            assert serving.returncode is None
        code, out, err = await finish("warm", IMAGE, "--listen", address, cache=tmp_path)
        assert (code, err) == (0, "")
        assert out.startswith(f"{IMAGE}: 1 manifest, 3 blobs, ")
        code, out, _ = await finish("stats", "--listen", address, "--json", cache=tmp_path)
        assert code == 0
        figures = json.loads(out)
        assert figures["store"]["chunks"] >= 4
        shares = {one["name"]: one for one in figures["served"]}
        assert sum(one["share"] for one in shares.values()) == pytest.approx(1)
        assert shares["upstream"]["bytes"] >= sum(map(len, LAYERS))
        assert figures["upstreams"]["a.example"]["bytes"] >= sum(map(len, LAYERS))
        assert figures["upstreams"]["docker.io"]["bytes"] == 0
        code, out, err = await finish("serve", "--listen", "127.0.0.1:0", cache=tmp_path)
        assert (code, out) == (1, "")
        assert "in use by another instance" in err.splitlines()[-1]
    finally:
        serving.send_signal(signal.SIGTERM)
        await serving.communicate()
    assert serving.returncode == 0


async def test_an_address_that_is_taken_is_one_line(upstream: FakeUpstream, tmp_path: Path) -> None:
    """serve on an address somebody else has says which, in its last line, without a traceback."""
    taken = upstream.url.partition("://")[2]
    code, out, err = await finish("serve", "--listen", taken, cache=tmp_path)
    assert code in (1, 2)
    assert out == ""
    assert taken.rpartition(":")[2] in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("verb", "line"),
    [
        ("serve", "cannot be created (Permission denied): choose another with --store DIR"),
        ("verify", "cannot be read by this user: run as the user who owns it"),
        ("check", "cannot be written by this user"),
    ],
)
async def test_a_store_that_one_may_not_enter(
    verb: str, line: str, upstream: FakeUpstream, tmp_path: Path, unused_tcp_port: int
) -> None:
    """What is wrong with the store, and what to do, in one line that names it."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    config = tmp_path / "proxy.toml"
    config.write_text(
        f"default_upstreams = false\n[upstream.'a.example']\nurls = ['{upstream.url}']\n"
        f"[server]\nlisten = ['127.0.0.1:{unused_tcp_port}']\n"
    )
    powers = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        *powers, sys.executable, "-m", "registry_proxy", verb, "--config", str(config), "--store", str(closed / "store"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 1
    [told] = [text for text in out.decode().splitlines() if line in text]
    assert str(closed) in told
    assert "Traceback" not in out.decode()


async def test_ctrl_c_ends_warm_at_once(upstream: FakeUpstream, tmp_path: Path, unused_tcp_port: int) -> None:
    """Interrupted in the middle of a layer, warm and its instance end quietly."""
    upstream.hold("blob")
    tokens = ("warm", IMAGE, "--listen", f"127.0.0.1:{unused_tcp_port}", "--upstream", f"a.example={upstream.url}")
    warming = await start(*tokens, cache=tmp_path)
    try:
        await asyncio.wait_for(upstream.until_asked(1, "blob"), 30)
        warming.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(warming.communicate(), 20)
    finally:
        if warming.returncode is None:
            warming.kill()
            await warming.communicate()
    assert warming.returncode == 130
    assert b"Traceback" not in out + err


async def test_ls_shows_what_is_cached(upstream: FakeUpstream, tmp_path: Path, unused_tcp_port: int) -> None:
    """Before anything is read nothing is; after one file was read, that file and those that share its chunks."""
    noise = {f"noise-{number}": random.Random(number).randbytes(300_000).hex().encode() for number in range(3)}
    layer, _ = estargz({"dir/first": b"small", **noise, "empty": b""})
    upstream.add_image(layers=[layer], tag="lazy")
    config = tmp_path / "proxy.toml"
    config.write_text('[store]\nchunk_size = "64KiB"\n', encoding="utf-8")
    options = (
        "--listen",
        f"127.0.0.1:{unused_tcp_port}",
        "--upstream",
        f"a.example={upstream.url}",
        "--config",
        config,
    )
    image, options = f"a.example/{REPOSITORY}:lazy", tuple(map(str, options))

    async def listed() -> dict[str, str | None]:
        code, out, err = await finish("lazy", "ls", image, "--json", *options, cache=tmp_path)
        assert (code, err) == (0, "")
        return {file["path"]: file["cached"] for file in json.loads(out)["files"]}

    cold = await listed()
    assert {path: cold[path] for path in noise} == dict.fromkeys(noise, "none")
    assert cold["empty"] == "all"
    code, _, _ = await finish("lazy", "cat", image, "noise-1", *options, cache=tmp_path)
    assert code == 0
    warm = await listed()
    assert (warm["noise-0"], warm["noise-1"], warm["noise-2"]) == ("part", "all", "part")
    code, out, _ = await finish("lazy", "ls", image, *options, cache=tmp_path)
    assert [line.split()[4] for line in out.splitlines() if line.endswith("noise-1")] == ["all"]
