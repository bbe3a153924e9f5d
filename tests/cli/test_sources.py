"""check: what it says about parents, CVMFS repositories and the forward proxies on the way to them."""

import json
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from registry_proxy.cli.findings import SourceFound
from registry_proxy.cli.sources import look_at_sources
from registry_proxy.config import Config, Flags, load
from registry_proxy.plan.chunks import MIB
from tests.fakes.cvmfs import CvmfsServer, Publisher

REPOSITORY = "test.example.org"


def config_of(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "proxy.toml"
    file.write_text(text)
    return load(file, {"XDG_CACHE_HOME": str(tmp_path)}, Flags(upstreams=("a.example=http://x",)))


async def look_at_parent(tmp_path: Path, body: bytes, more: str = "") -> list[SourceFound]:
    """What check finds of a parent whose /stats has this body."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body if request.path == "/stats" else b"ok")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        return await look_at_sources(config_of(tmp_path, f"{more}\n[parent]\nurls = ['{server.make_url('')}']\n"))


async def test_a_parent_answers(tmp_path: Path) -> None:
    """A parent with the same chunks is told with its version."""
    [found] = await look_at_parent(tmp_path, json.dumps({"version": "9.9", "chunk_size": MIB}).encode())
    assert (found.kind, found.error) == ("parent", None)
    assert "registry-proxy 9.9" in found.told


@pytest.mark.parametrize(
    ("body", "said"),
    [(b'{"version": "1", "chunk_size": 262144}', "set store.chunk_size the same"), (b"<html>", "not as an instance")],
)
async def test_what_is_no_use_as_a_parent(tmp_path: Path, body: bytes, said: str) -> None:
    """Other chunks, or another program: said with what to do."""
    [found] = await look_at_parent(tmp_path, body)
    assert said in str(found.error)


async def test_an_instance_is_no_parent_of_its_own(tmp_path: Path) -> None:
    """A parent at an address that the instance itself listens on is a mistake, and is not even asked."""
    text = "[server]\nlisten = [':5123']\n[parent]\nurls = ['http://127.0.0.1:5123']\n"
    [found] = await look_at_sources(config_of(tmp_path, text))
    assert "this instance listens on" in str(found.error)


async def test_forward_proxies_are_tried_each(tmp_path: Path, unused_tcp_port: int) -> None:
    """A dead Squid is seen although DIRECT would do, and the parent is asked straight."""
    more = f"[forward_proxies]\ngroups = 'http://127.0.0.1:{unused_tcp_port};DIRECT'\n"
    parent, way = await look_at_parent(tmp_path, json.dumps({"version": "1", "chunk_size": MIB}).encode(), more)
    assert parent.error is None
    assert (way.kind, "no connection" in str(way.error)) == ("way", True)


@pytest.mark.parametrize(
    ("status", "said"),
    [(200, None), (403, "http_access"), (407, "http_access"), (503, "access log"), (520, "access log")],
)
async def test_what_a_forward_proxy_answers(status: int, said: str | None, tmp_path: Path) -> None:
    """One that refuses, or does not get through, is no way: said with what to do, whatever the status."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as forward_proxy:
        more = f"[forward_proxies]\ngroups = 'http://127.0.0.1:{forward_proxy.port}'\n"
        _, way = await look_at_parent(tmp_path, json.dumps({"version": "1", "chunk_size": MIB}).encode(), more)
    assert (way.error is None) == (said is None)
    assert said is None or (said in str(way.error) and f"answers {status}" in str(way.error))


async def test_a_repository_tells_its_revision(tmp_path: Path) -> None:
    """The letters of a CVMFS repository are fetched and checked; what cannot be believed is an error."""
    (tmp_path / "www").mkdir()
    publisher = Publisher(tmp_path / "www", REPOSITORY)
    publisher.publish()
    key = publisher.write_key(tmp_path / "master.pub")
    async with CvmfsServer(publisher.root) as server:
        text = f"[[cvmfs_http]]\nrepository = '{REPOSITORY}'\nservers = ['{server.url}']\nkeys = ['{key}']\n"
        config = config_of(tmp_path, text)
        [found] = await look_at_sources(config)
        assert (found.kind, found.error) == ("cvmfs-http", None)
        assert "revision 1, whitelist until" in found.told
        publisher.write_whitelist(master=7)
        [refused] = await look_at_sources(config)
        assert refused.error is not None
