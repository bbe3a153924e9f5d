"""Clients' own credentials where one instance is several processes: each server knows what the fetcher was told."""

import json
from base64 import b64encode

from registry_proxy.plan.challenges import parse_challenges
from tests.fakes.instance import CHUNK, noise
from tests.fakes.upstream import REPOSITORY, FakeUpstream
from tests.fakes.wire import Wire
from tests.workers.conftest import BASE, HOST, Start

DATA = noise(6 * CHUNK + 11)
BASIC = b64encode(b"robot:s3cret").decode()
MORE = 'access = "pass-through"'


async def logged_in(wire: Wire, path: str) -> str:
    """The header that a challenge asks for."""
    refused = await wire.ask(path)
    [asked] = parse_challenges([refused.headers["WWW-Authenticate"]])
    given = await wire.ask(f"/token/{HOST}?scope={asked.parameters['scope']}", f"Authorization: Basic {BASIC}")
    return f"Authorization: Bearer {json.loads(given.body)['token']}"


async def test_a_yes_is_each_servers_own_for_as_long_as_it_was_told(start: Start, upstream: FakeUpstream) -> None:
    """Every server admits who may and refuses who may not, cold and cached; the fetcher asks, and is asked once by each."""
    upstream.auth, upstream.public_pull = "bearer", False
    digest = upstream.add_blob(DATA)
    path = f"{BASE}/blobs/{digest}"
    async with start(more=MORE) as workers, workers.one_of_each() as wires:
        shown = await logged_in(wires[0], path)
        for _ in range(2):
            for wire in wires:
                assert (await wire.ask(path)).status == 401
                assert (await wire.ask(path, "Authorization: Bearer none")).status == 401
                assert (await wire.ask(path, "Authorization: Bearer \xff")).status == 400
                assert (await wire.ask(f"/token/{HOST}", "Authorization: Basic \xff")).status == 400
                assert (await wire.ask(path, shown)).body == DATA
        assert upstream.most_often(digest) == 1
        upstream.revoke_tokens()
        for wire in wires:
            assert (await wire.ask(path, shown, "Range: bytes=5-9")).body == DATA[5:10]
            assert (await wire.ask(path, "Range: bytes=5-9")).status == 401
        assert not any("s3cret" in str(line) or BASIC in str(line) for line in workers.lines)


async def test_a_new_fetcher_is_told_nothing_by_the_old_one(start: Start, upstream: FakeUpstream) -> None:
    """After the fetcher has died, servers ask anew: who may still read does, who was revoked does not."""
    upstream.auth, upstream.public_pull = "bearer", False
    digest, cold = upstream.add_blob(DATA), upstream.add_blob(noise(3 * CHUNK, 2))
    path = f"{BASE}/blobs/{digest}"
    async with start(more=MORE) as workers, workers.one_of_each() as wires:
        shown, revoked = await logged_in(wires[0], path), await logged_in(wires[0], path)
        for wire in wires:
            assert (await wire.ask(path, shown)).body == DATA
            assert (await wire.ask(path, revoked)).body == DATA
        del upstream.tokens[revoked.removeprefix("Authorization: Bearer ")]
        await workers.kill("fetcher")
        await workers.said("process.restarted", name="fetcher")
        for wire in wires:
            assert (await wire.ask(f"{BASE}/blobs/{cold}", shown)).body == noise(3 * CHUNK, 2)
            assert (await wire.ask(path, revoked)).status == 401
            assert (await wire.ask(f"/v2/{REPOSITORY}/blobs/{digest}", shown)).status == 404
