"""The gate of a guarded upstream is asked before anything of it is served."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from registry_proxy.access.caller import Caller
from registry_proxy.access.gate import Subject
from registry_proxy.errors import BlobUnknown, Denied, LoginNeeded, NoVerdict, RegistryProxyError
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Reference, Repository, SourceHost, Tag
from registry_proxy.sources.base import BlobPlace
from registry_proxy.web.server import Face
from tests.fakes.wire import Wire
from tests.web.conftest import StartFace
from tests.web.memory import MemoryBlob, MemoryHeart, ServedManifest, memory_blob

DATA = b"layer" * 100
MANIFEST = b"{}"
YES = "Authorization: Bearer good"
DIGEST = Digest.of(MANIFEST)
BLOB = Digest.of(DATA)
PATHS = {
    "/v2/library/app/manifests/latest?ns=registry.test": Subject(Repository("library/app"), manifest=Tag("latest")),
    f"/v2/library/app/manifests/{DIGEST}?ns=registry.test": Subject(Repository("library/app"), manifest=DIGEST),
    f"/v2/library/app/blobs/{BLOB}?ns=registry.test": Subject(Repository("library/app"), blob=BLOB),
    "/v2/library/app/tags/list?ns=registry.test": Subject(Repository("library/app")),
    f"/v2/library/app/referrers/{DIGEST}?ns=registry.test": Subject(Repository("library/app"), manifest=DIGEST),
    "/v2/_catalog?ns=registry.test": Subject(catalog=True),
    "/v2/?ns=registry.test": Subject(),
}


@dataclass
class MemoryGate:
    """Lets in who shows the good token; ``says``: what all others are told; ``asked``: by whom and about what."""

    says: RegistryProxyError = field(default_factory=lambda: Denied("not you"))
    asked: list[tuple[Caller, Subject]] = field(default_factory=list)
    remembers: bool = False

    def at_hand(self, caller: Caller, repository: Repository | None) -> bool:
        return self.remembers and caller.authorization == "Bearer good"

    async def admit(self, caller: Caller, subject: Subject) -> float:
        self.asked.append((caller, subject))
        if caller.authorization != "Bearer good":
            raise self.says
        return 60.0


class HotHeart(MemoryHeart):
    """Has everything at hand, as the real one has what was served before."""

    def at_hand(self, upstream: SourceHost, repository: Repository, reference: Reference) -> ServedManifest | None:
        return self.manifests.get((upstream, repository, str(reference)))

    def opened(self, place: BlobPlace) -> MemoryBlob | None:
        return self.blobs.get((place.upstream, place.repository, str(place.digest)))


@pytest.fixture(params=[MemoryHeart, HotHeart])
def heart(request: pytest.FixtureRequest) -> MemoryHeart:
    made: MemoryHeart = request.param()
    return made


@pytest.fixture
def gate() -> MemoryGate:
    return MemoryGate()


@pytest.fixture
async def face(start: StartFace, heart: MemoryHeart, gate: MemoryGate) -> Face:
    """registry.test is guarded, docker.io is not; both have the same image."""
    for host in ("registry.test", "docker.io"):
        heart.blobs[host, "library/app", str(BLOB)] = memory_blob(DATA, chunk=1024)
        for reference in ("latest", str(DIGEST)):
            heart.manifests[host, "library/app", reference] = ServedManifest(DIGEST, "application/json", MANIFEST)
        heart.tag_names[host, "library/app"] = ["latest"]
        heart.repositories[host] = ["library/app"]
    return await start(guard={SourceHost("registry.test"): gate})


@pytest.fixture
async def wire(face: Face) -> AsyncIterator[Wire]:
    async with Wire(face.addresses[0]) as wire:
        yield wire


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_gate_is_asked_every_time(
    wire: Wire, gate: MemoryGate, heart: MemoryHeart, path: str, method: str
) -> None:
    """Whoever is not let in gets nothing, however often others have got the same before, and the heart is not asked for them."""
    for _ in range(3):
        assert (await wire.ask(path, method=method)).status == 403
        asked = len(heart.calls)
        assert (await wire.ask(path, YES, method=method)).status in {200, 404}
        assert (await wire.ask(path, "Authorization: Bearer bad", method=method)).status == 403
        assert len(heart.calls) <= asked + 1
    assert {subject for _, subject in gate.asked} == {PATHS[path]}
    assert gate.asked[0][0] == Caller(None, "127.0.0.1")


@pytest.mark.parametrize("path", [path for path, subject in PATHS.items() if not subject.is_list])
async def test_a_verdict_at_hand_saves_the_question(wire: Wire, gate: MemoryGate, path: str) -> None:
    """Who was let in a moment ago is not asked about again, but for the list of tags; others are."""
    gate.remembers = True
    for _ in range(3):
        assert (await wire.ask(path, YES)).status == 200
    assert gate.asked == []
    assert (await wire.ask(path)).status == 403


@pytest.mark.parametrize("path", PATHS)
async def test_an_open_upstream_has_no_gate(wire: Wire, gate: MemoryGate, path: str) -> None:
    """What everybody may read is served without asking any gate."""
    assert (await wire.ask(path.replace("registry.test", "docker.io"))).status in {200, 404}
    assert gate.asked == []


@pytest.mark.parametrize(
    ("says", "status", "header"),
    [
        (LoginNeeded("who?", basic="registry.test"), 401, 'Basic realm="registry.test"'),
        (
            LoginNeeded("who?", service='the "service"'),
            401,
            'Bearer realm="http://test/token/registry.test",service="the \\"service\\"",'
            'scope="repository:registry.test/library/app:pull"',
        ),
        (NoVerdict("down"), 503, None),
        (BlobUnknown("none"), 404, None),
    ],
)
async def test_what_the_gate_says_is_the_answer(
    wire: Wire, gate: MemoryGate, says: RegistryProxyError, status: int, header: str | None
) -> None:
    """A login is asked for in the upstream's scheme, at this proxy, for the name as the client spells it; trouble is 503, never a yes."""
    gate.says = says
    answer = await wire.ask(f"/v2/registry.test/library/app/blobs/{BLOB}")
    assert answer.status == status
    assert answer.headers.get("WWW-Authenticate") == header
    assert (answer.headers.get("Retry-After") is not None) == (status == 503)


async def test_the_challenge_of_the_ping_names_no_repository(wire: Wire, gate: MemoryGate) -> None:
    """``/v2/`` of a guarded upstream asks for a login; that of none in particular does not."""
    gate.says = LoginNeeded("who?", service="s")
    answer = await wire.ask("/v2/?ns=registry.test")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="http://test/token/registry.test",service="s"'
    assert (await wire.ask("/v2/")).status == 200


async def test_no_host_is_made_up_from_a_header(wire: Wire, gate: MemoryGate) -> None:
    """A Host that is none does not get into the challenge."""
    gate.says = LoginNeeded("who?")
    wire.writer.write(b'GET /v2/?ns=registry.test HTTP/1.1\r\nHost: a",scope="x\r\n\r\n')
    answer = await wire.answer()
    assert answer.status in {400, 401}
    assert "scope" not in answer.headers.get("WWW-Authenticate", "")


async def test_a_yes_that_was_believed_is_asked_again_if_the_upstream_then_refuses(
    wire: Wire, gate: MemoryGate, heart: MemoryHeart
) -> None:
    """What is refused by the upstream in spite of a yes at hand is asked of the gate once more, and its word is the answer."""
    gate.remembers, heart.error = True, Denied("nobody is here to show anything")
    path = f"/v2/library/app/referrers/{DIGEST}?ns=registry.test"
    assert (await wire.ask(path, YES)).status == 403
    assert [subject for _, subject in gate.asked] == [PATHS[path]]
    gate.remembers = False
    assert (await wire.ask(path, YES)).status == 403
    assert len(gate.asked) == 2
