"""Several processes as one instance: what holds for one process holds for all of them together, and a death costs little."""

import asyncio
import random
import signal
import sys
from pathlib import Path

from cryptography import x509

from registry_proxy.oci.digest import Digest
from tests.fakes.certificates import Authority, Pair
from tests.fakes.faults import Gate
from tests.fakes.instance import CHUNK, noise
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Answer
from tests.workers.conftest import BASE, HOST, Start, Workers, configuration, server_of

DATA = noise(24 * CHUNK + 11)


async def get(workers: Workers, digest: Digest, span: tuple[int, int] | None = None) -> Answer:
    headers = () if span is None else (f"Range: bytes={span[0]}-{span[1] - 1}",)
    async with workers.wire() as wire:
        return await wire.ask(f"{BASE}/blobs/{digest}", *headers)


def right(answer: Answer, span: tuple[int, int] | None = None) -> bool:
    start, stop = span or (0, len(DATA))
    return answer.complete and answer.status == (200 if span is None else 206) and answer.body == DATA[start:stop]


async def test_a_hundred_clients_of_two_servers_cost_one_fetch(start: Start, upstream: FakeUpstream) -> None:
    """I2 across processes: whatever the server, each byte of a cold blob comes once, and every client gets the right ones."""
    digest = upstream.add_blob(DATA)
    chance = random.Random(6)
    spans = [None, *(tuple(sorted(chance.sample(range(len(DATA)), 2))) for _ in range(7))]
    async with start() as workers:
        wanted = [spans[number % len(spans)] for number in range(100)]
        answers = await asyncio.gather(*(get(workers, digest, span) for span in wanted))
        assert all(right(answer, span) for answer, span in zip(answers, wanted, strict=True))
        assert upstream.most_often(digest) == 1
        assert len({server_of(answer.headers["X-Request-Id"]) for answer in answers}) == 2
        shares = {one["name"]: one["bytes"] for one in (await workers.stats())["served"]}
        assert sum(shares.values()) == sum(len(answer.body) for answer in answers)


async def test_a_server_that_is_killed_loses_its_own_connections_only(start: Start, upstream: FakeUpstream) -> None:
    """kill -9 of a server: bodies of the other one go on, it comes back, and what it had counted stays counted."""
    digest = upstream.add_blob(DATA)
    async with start() as workers, workers.one_of_each() as (one, other):
        assert right(await get(workers, digest))
        before = await counted(workers, "blob")
        cold = upstream.add_blob(noise(8 * CHUNK, 1))
        upstream.gate = Gate()
        for wire in (one, other):
            wire.send(f"{BASE}/blobs/{cold}")
        heads = [await wire.head() for wire in (one, other)]
        await workers.kill("server-1")
        [died] = await workers.said("process.ended", name="server-1")
        assert died["code"] == -signal.SIGKILL
        upstream.gate.release(8 * CHUNK)
        bodies = await asyncio.gather(
            *(wire.reader.readexactly(8 * CHUNK) for wire in (one, other)), return_exceptions=True
        )
        assert [head[0] for head in heads] == [200, 200]
        assert sorted(isinstance(body, bytes) for body in bodies) == [False, True]
        assert noise(8 * CHUNK, 1) in bodies
        await workers.said("process.restarted", name="server-1")
        async with workers.one_of_each():
            assert right(await get(workers, digest))
        assert await counted(workers, "blob") > before
        [restarted] = [one for one in (await workers.stats())["processes"] if one["name"] == "server-1"]
        assert restarted["restarts"] == 1


async def test_without_the_fetcher_hits_go_on_and_misses_wait(start: Start, upstream: FakeUpstream) -> None:
    """kill -9 of the fetcher: what was served is served on, a cold read waits and succeeds, one under way goes on where it was."""
    hot, cold = upstream.add_blob(DATA), upstream.add_blob(noise(8 * CHUNK, 1))
    under_way = upstream.add_blob(noise(8 * CHUNK, 2))
    async with start() as workers, workers.one_of_each() as (one, other):
        for wire in (one, other):
            assert right(await wire.ask(f"{BASE}/blobs/{hot}"))
        upstream.gate = Gate()
        other.send(f"{BASE}/blobs/{under_way}")
        await other.head()
        upstream.gate.release(3 * CHUNK)
        begun = await other.reader.readexactly(2 * CHUNK)
        await workers.kill("fetcher")
        upstream.gate = None
        assert right(await one.ask(f"{BASE}/blobs/{hot}", "Range: bytes=5-70000"), (5, 70001))
        assert right(await one.ask(f"{BASE}/blobs/{hot}"))
        assert (await one.ask(f"{BASE}/blobs/{cold}")).body == noise(8 * CHUNK, 1)
        assert begun + await other.reader.readexactly(6 * CHUNK) == noise(8 * CHUNK, 2)
        await workers.said("process.restarted", name="fetcher")
        assert right(await one.ask(f"{BASE}/blobs/{hot}"))


async def test_without_any_fetcher_a_miss_is_told_to_come_back(
    start: Start, upstream: FakeUpstream, tmp_path: Path
) -> None:
    """A fetcher that cannot begin again: 503 with Retry-After, /readyz says why, and all is well when it can."""
    cold = upstream.add_blob(DATA)
    async with start(policy='patience = "300ms"') as workers, workers.wire() as wire:
        format_ = tmp_path / "store" / "format"
        right_one = format_.read_bytes()
        format_.write_bytes(right_one.replace(b'"version":1', b'"version":99'))
        await workers.kill("fetcher")
        refused = await workers.said("process.ended", 2, name="fetcher")
        assert "format version 99" in refused[1]["error"]
        answer, ready = await wire.ask(f"{BASE}/blobs/{cold}"), await wire.ask("/readyz")
        assert (answer.status, "Retry-After" in answer.headers) == (503, True)
        assert (ready.status, b"started again" in ready.body) == (503, True)
        format_.write_bytes(right_one)
        await workers.said("process.restarted", name="fetcher")
        assert right(await wire.ask(f"{BASE}/blobs/{cold}"))
        assert (await wire.ask("/readyz")).status == 200


async def test_sigterm_lets_running_answers_finish(start: Start, upstream: FakeUpstream, tmp_path: Path) -> None:
    """A body that is under way at SIGTERM arrives whole, cold chunks included; then everything is gone, and the exit code is 0."""
    digest = upstream.add_blob(DATA)
    upstream.gate = Gate()
    async with start() as workers, workers.wire() as wire:
        wire.send(f"{BASE}/blobs/{digest}")
        await wire.head()
        upstream.gate.release(2 * CHUNK)
        begun = await wire.reader.readexactly(CHUNK)
        workers.process.send_signal(signal.SIGTERM)
        await workers.said("server.stopping")
        upstream.gate.release(len(DATA))
        assert begun + await wire.reader.readexactly(len(DATA) - CHUNK) == DATA
        assert await workers.end() == 0
    assert not list(tmp_path.glob("registry-proxy-*"))


async def test_metrics_are_those_of_all_processes(start: Start, upstream: FakeUpstream) -> None:
    """/metrics of either server has the requests of both, the fetcher's fills, and the store's bytes once."""
    digest = upstream.add_blob(DATA)
    async with start() as workers, workers.one_of_each() as wires:
        for wire in wires:
            assert right(await wire.ask(f"{BASE}/blobs/{digest}"))
        texts = [(await wire.ask("/metrics")).body.decode() for wire in wires]
        for text in texts:
            assert figure(text, 'requests_total{kind="blob",method="GET",status="2xx"}') == 2
            assert figure(text, "chunk_fills_total") == 25
            assert len(DATA) < figure(text, "store_bytes") < 2 * len(DATA)
            assert figure(text, 'process_restarts_total{process="fetcher"}') == 0


async def test_renewed_certificates_reach_every_server(start: Start, upstream: FakeUpstream, tmp_path: Path) -> None:
    """SIGHUP: each server shows the certificate that the configuration names now."""
    authority = Authority(tmp_path)
    first, second = authority.issue("first"), authority.issue("second")

    def tls(pair: Pair) -> str:
        return f'tls = {{certificate = "{pair.certificate}", key = "{pair.key}"}}'

    async with start(tls(first)) as workers:
        workers.tls = authority.trust()
        assert await serials(workers) == {first.serial}
        workers.file.write_text(configuration(upstream, tmp_path, tls(second)))
        workers.process.send_signal(signal.SIGHUP)
        [said] = await workers.said("config.reloaded")
        assert said["changed"] == "server.tls"
        await workers.said("tls.loaded", 4)
        assert await serials(workers) == {second.serial}


async def test_a_changed_policy_reaches_the_fetcher(start: Start, upstream: FakeUpstream, tmp_path: Path) -> None:
    """SIGHUP: the fetcher goes offline, and the servers' clients are told so."""
    upstream.add_image(tag="v1")
    async with start() as workers, workers.wire() as wire:
        assert (await wire.ask(f"{BASE}/tags/list")).status == 200
        workers.file.write_text(configuration(upstream, tmp_path, policy="offline = true"))
        workers.process.send_signal(signal.SIGHUP)
        [said] = await workers.said("config.reloaded")
        assert said["changed"] == "policy.offline"
        async with asyncio.timeout(10):
            while (await wire.ask(f"{BASE}/tags/list")).status != 503:
                pass


async def test_changed_upstreams_reach_every_process(start: Start, upstream: FakeUpstream, tmp_path: Path) -> None:
    """SIGHUP: each server knows a new upstream, and the fetcher fetches from it; a guard stands before an old one in all of them."""
    upstream.add_image(tag="v1")
    path = f"{BASE}/manifests/v1"
    async with start() as workers, workers.one_of_each() as wires:
        assert [(await wire.ask(path)).status for wire in wires] == [200, 200]
        more = f'networks = ["192.0.2.0/24"]\n[upstream."new.example"]\nurls = ["{upstream.url}"]'
        workers.file.write_text(configuration(upstream, tmp_path, more=more))
        workers.process.send_signal(signal.SIGHUP)
        [said] = await workers.said("config.reloaded")
        assert said["changed"] == f'upstream."{HOST}".networks, upstream."new.example"'
        for wire in wires:
            async with asyncio.timeout(10):
                while (await wire.ask(path)).status != 403:
                    pass
                while (await wire.ask(path.replace(HOST, "new.example"))).status != 200:
                    pass
        workers.file.write_text(configuration(upstream, tmp_path))
        workers.process.send_signal(signal.SIGHUP)
        for wire in wires:
            async with asyncio.timeout(10):
                while (await wire.ask(path)).status != 200:
                    pass
            assert (await wire.ask(path.replace(HOST, "new.example"))).codes == ["NAME_UNKNOWN"]


async def test_what_keeps_it_from_starting_is_told(start: Start, upstream: FakeUpstream, tmp_path: Path) -> None:
    """A store in use by another instance is one line and exit code 1, as with one process."""
    async with start() as first:
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "registry_proxy", "serve", "--config", str(first.file)),
            stderr=asyncio.subprocess.PIPE,
        )
        _, err = await second.communicate()
        assert second.returncode == 1
        assert "in use by another instance" in err.decode().splitlines()[-1]


async def counted(workers: Workers, kind: str) -> float:
    async with workers.wire() as wire:
        text = (await wire.ask("/metrics")).body.decode()
    return figure(text, f'requests_total{{kind="{kind}",method="GET",status="2xx"}}')


def figure(text: str, name: str) -> float:
    [line] = [line for line in text.splitlines() if line.startswith(f"registry_proxy_{name} ")]
    return float(line.rpartition(" ")[2])


async def serials(workers: Workers) -> set[int]:
    """The certificates that the servers show."""
    found = set()
    async with workers.one_of_each() as wires:
        for wire in wires:
            shown = wire.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            found.add(x509.load_der_x509_certificate(shown).serial_number)
    return found
