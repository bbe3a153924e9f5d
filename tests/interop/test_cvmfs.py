"""The repositories of the official tools read through a real Squid."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from registry_proxy.config import CvmfsHttp, Forwarding
from registry_proxy.net.forward import ForwardProxies
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Repository, SourceHost
from registry_proxy.sources.base import BlobPlace, Priority, Urgency
from registry_proxy.sources.cvmfs.source import CvmfsSource
from registry_proxy.telemetry.metrics import Metrics
from tests.fakes.cvmfs import CvmfsServer
from tests.interop.harness.squid import Squid, squid

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures" / "cvmfs"

NAMES = ("sha1.cvmfs.test", "shake.cvmfs.test")


@asynccontextmanager
async def site(directory: Path, name: str, server: CvmfsServer, through: Squid) -> AsyncIterator[CvmfsSource]:
    """A source that has nothing yet, behind the Squid alone."""
    settings = CvmfsHttp(name, (server.url,), (FIXTURES / "keys" / f"{name}.pub",))
    async with AsyncExitStack() as stack:
        ways = await stack.enter_async_context(ForwardProxies(Forwarding(groups=through.url)))
        source = CvmfsSource(settings, ways.fetch, directory, may_share=lambda _: True, metrics=Metrics())
        yield await stack.enter_async_context(source)


async def read_all(source: CvmfsSource) -> int:
    """Reads every blob, which must hash to its digest; how many there are."""
    lines = (FIXTURES / "blobs.txt").read_text().splitlines()
    for line in lines:
        digest = Digest("sha256", line.split()[0])
        place = BlobPlace(SourceHost("registry.test"), Repository("a/b"), digest)
        async with source.open(place, None, int(line.split()[1]), Urgency(Priority.FOREGROUND)) as delivery:
            assert digest.matches(b"".join([piece async for piece in delivery]))
    return len(lines)


@pytest.mark.parametrize("name", NAMES)
async def test_the_second_site_costs_the_server_nothing(name: str, work: Path) -> None:
    """Both repositories are read whole through Squid, identical; what it has it gives to the next one, letters too."""
    work.chmod(0o755)
    with squid(work) as through:
        async with CvmfsServer(FIXTURES / "repos" / name) as server:
            async with site(work / "one", name, server, through) as source:
                assert await read_all(source) == 7
            assert len(server.asked) == len(through.passed()) == len(set(server.asked))
            through.forget()
            server.asked.clear()
            async with site(work / "two", name, server, through) as source:
                assert await read_all(source) == 7
            assert not server.asked
            assert all(each.is_hit for each in through.passed())


async def test_a_poisoned_squid_heals(work: Path) -> None:
    """Wrong bytes that the Squid keeps are never delivered; the reader that finds them heals it for the next one."""
    work.chmod(0o755)

    def poison(request: web.Request, body: bytes) -> bytes | None:
        past_caches = "no-cache" in request.headers.get("Cache-Control", "")
        return None if past_caches or not body else body[:-1] + bytes([body[-1] ^ 1])

    with squid(work) as through:
        async with CvmfsServer(FIXTURES / "repos" / NAMES[0]) as server:
            server.mischief = poison
            async with site(work / "one", NAMES[0], server, through) as source:
                assert await read_all(source) == 7
            server.asked.clear()
            async with site(work / "two", NAMES[0], server, through) as source:
                assert await read_all(source) == 7
            assert not server.asked
