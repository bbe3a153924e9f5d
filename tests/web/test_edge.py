"""The edge: failures, bad input, writes, health, log lines, lifecycle."""

import asyncio
import ssl

import msgspec
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from registry_proxy.config import Upstream
from registry_proxy.errors import ANSWERS, ConfigInvalid, Denied, RegistryProxyError, UpstreamUnreachable
from registry_proxy.oci.digest import Digest
from registry_proxy.web.server import Face
from tests.fakes.wire import Wire
from tests.web.conftest import StartFace
from tests.web.memory import MemoryHeart, ServedManifest, memory_blob

BODY = b'{"schemaVersion":2}'
MANIFEST = ServedManifest(Digest.of(BODY), "application/vnd.oci.image.manifest.v1+json", BODY)
ZEROS = "sha256:" + 64 * "0"


def _subclasses(kind: type[RegistryProxyError]) -> set[type[RegistryProxyError]]:
    return {kind, *(deeper for child in kind.__subclasses__() for deeper in _subclasses(child))}


_TERMINAL = ("registry_proxy.cli", "registry_proxy.lazy")  # rooms whose failures only ever meet a terminal


def test_every_failure_has_an_answer() -> None:
    """Each class of the taxonomy has its own row in the table that answers clients."""
    missing = _subclasses(RegistryProxyError) - {RegistryProxyError} - ANSWERS.keys()
    assert not {kind for kind in missing if not kind.__module__.startswith(_TERMINAL)}


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE", "OPTIONS"])
async def test_writes_are_refused(wire: Wire, heart: MemoryHeart, method: str) -> None:
    """The proxy is read-only: 405 with an OCI error and what is allowed, and the heart hears nothing of it."""
    answer = await wire.ask("/v2/a/blobs/uploads/?ns=registry.test", "Content-Length: 0", method=method)
    assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"])
    assert answer.headers["Allow"] == "GET, HEAD"
    assert not heart.calls


async def test_a_refused_upload_sees_its_answer(wire: Wire) -> None:
    """A client in the middle of a large upload still gets the 405."""
    wire.send("/v2/a/blobs/uploads/1", f"Content-Length: {1 << 20}", method="PATCH")
    wire.writer.write(bytes(1 << 20))
    assert (await wire.answer()).status == 405


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/v2/a%2fb/blobs/{ZEROS}", 400, "NAME_INVALID"),
        (f"/v2/a/../b/blobs/{ZEROS}", 400, "NAME_INVALID"),
        (f"/v2/a%00/blobs/{ZEROS}", 400, "NAME_INVALID"),
        (f"/v2//a/blobs/{ZEROS}", 400, "NAME_INVALID"),
        (f"/v2/A/blobs/{ZEROS}", 400, "NAME_INVALID"),
        (f"/v2/blobs/{ZEROS}", 400, "NAME_INVALID"),
        (f"/v2/{'a' * 300}/blobs/{ZEROS}", 400, "NAME_INVALID"),
        ("/v2/a/blobs/sha256:xyz", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"),
        ("/v2/a/manifests/sha256:totallywrong", 400, "DIGEST_INVALID"),
        ("/v2/a/manifests/.INVALID_MANIFEST_NAME", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/a/blobs/{ZEROS}?ns=evil.example", 404, "NAME_UNKNOWN"),
        (f"/v2/a/blobs/{ZEROS}?ns=bad%20host", 400, "NAME_INVALID"),
        (f"/v2/evil.example/a/blobs/{ZEROS}", 404, "NAME_UNKNOWN"),
        ("/v2/a/tags/list?ns=registry.test&n=-1", 400, "UNSUPPORTED"),
        ("/v2/a", 404, "UNSUPPORTED"),
        ("/v1/repositories/a", 404, "UNSUPPORTED"),
        ("/etc/passwd", 404, "UNSUPPORTED"),
    ],
)
async def test_bad_input_is_a_clear_error(wire: Wire, heart: MemoryHeart, path: str, status: int, code: str) -> None:
    """Malformed paths and unknown upstreams get an OCI error, and nothing is asked of any upstream."""
    answer = await wire.ask(path)
    assert (answer.status, answer.codes) == (status, [code])
    assert answer.headers["Content-Type"] == "application/json"
    assert not heart.calls


async def test_headers_of_an_error_to_head(wire: Wire) -> None:
    """HEAD gets the status of an error and no body; the connection goes on."""
    assert (await wire.ask("/v2/a/blobs/sha256:xyz", method="HEAD")).status == 400
    assert (await wire.ask("/v2/")).body == b"{}"


async def test_a_mistake_of_ours_is_a_500(wire: Wire, heart: MemoryHeart) -> None:
    """An exception nobody foresaw is an OCI error without details for the client, and a log entry with them for us."""
    heart.error = ZeroDivisionError("secret detail")  # type: ignore[assignment]
    with capture_logs() as logs:
        answer = await wire.ask(f"/v2/a/blobs/{ZEROS}?ns=registry.test")
    assert (answer.status, answer.codes) == (500, ["UNKNOWN"])
    assert b"secret" not in answer.body
    assert "request.broke" in {entry["event"] for entry in logs}


async def test_each_request_is_one_line(wire: Wire, heart: MemoryHeart) -> None:
    """One event per request says what was asked, from where it was answered, and the id that the client saw."""
    blob = memory_blob(b"0123456789")
    heart.blobs["registry.test", "a", str(blob.digest)] = blob
    with capture_logs() as logs:
        answer = await wire.ask(
            f"/v2/a/blobs/{blob.digest}?ns=registry.test", "Range: bytes=2-4", "Authorization: Basic c2VjcmV0"
        )
        await wire.ask("/v2/")
    line = logs[0]
    assert (line["event"], line["log_level"]) == ("request.answered", "info")
    assert (line["kind"], line["status"], line["upstream"], line["bytes"], line["tiers"]) == (
        "blob", 206, "registry.test", 3, "store",
    )  # fmt: skip
    assert line["request"] == answer.headers["X-Request-Id"]
    assert "c2VjcmV0" not in str(logs)


async def test_trouble_is_a_warning_with_its_reason(wire: Wire, heart: MemoryHeart) -> None:
    """A 5xx is logged as a warning that names the failure."""
    heart.error = UpstreamUnreachable("no route")
    with capture_logs() as logs:
        await wire.ask(f"/v2/a/blobs/{ZEROS}?ns=registry.test")
        await wire.ask("/v2/")
    assert (logs[0]["log_level"], logs[0]["error"]) == ("warning", "UpstreamUnreachable: no route")


async def test_health_paths(wire: Wire) -> None:
    """Health, metrics, figures and the greeting answer GET and HEAD."""
    assert (await wire.ask("/healthz")).body == b"ok\n"
    assert (await wire.ask("/readyz")).status == 200
    assert msgspec.json.decode((await wire.ask("/stats")).body) == {"chunks": 3}
    assert b"registry-proxy" in (await wire.ask("/")).body
    page = await wire.ask("/", "Accept: text/html,*/*;q=0.8")
    assert page.body.startswith(b"<!doctype html>")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    metrics = await wire.ask("/metrics")
    assert b'registry_proxy_requests_total{kind="health",method="GET",status="2xx"} 5.0' in metrics.body
    assert (await wire.ask("/healthz", method="HEAD")).status == 200


async def test_not_ready_says_why(start: StartFace) -> None:
    """/readyz answers 503 with the reason."""
    face = await start(ready=lambda: "the store is locked")
    async with Wire(face.addresses[0]) as wire:
        answer = await wire.ask("/readyz")
    assert (answer.status, answer.body) == (503, b"not ready: the store is locked\n")


async def test_what_is_kept_of_paths_is_bounded(face: Face, wire: Wire, heart: MemoryHeart) -> None:
    """The meaning of a path is kept, but not that of one with a query of kilobytes, which is answered all the same."""
    heart.manifests["registry.test", "a", "latest"] = MANIFEST
    path = "/v2/a/manifests/latest?ns=registry.test"
    for query in ("", f"&x={'y' * 5000}"):
        assert (await wire.ask(path + query)).body == BODY
    assert [key[0] for key in face._edge._known] == [path]


async def test_absolute_form_is_understood(wire: Wire) -> None:
    """A request target may be a whole URL (RFC 9112 §3.2.2)."""
    assert (await wire.ask("http://somewhere/v2/")).body == b"{}"


@pytest.mark.parametrize("line", ["GET /v2/", "GET /v2/ HTTP/0.9", "GET /v2/ HTTP/2.0"])
async def test_other_versions_are_refused(face: Face, line: str) -> None:
    """A request line without a version, or with one that is not spoken here, is 400."""
    async with Wire(face.addresses[0]) as wire:
        wire.writer.write(f"{line}\r\n\r\n".encode())
        assert (await wire.answer()).status == 400


async def test_a_tls_hello_gets_400(face: Face) -> None:
    """A client that speaks TLS to the plain port gets a readable answer and its connection is closed."""
    async with Wire(face.addresses[0]) as wire:
        outgoing = ssl.MemoryBIO()
        tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="test")
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        wire.writer.write(outgoing.read())
        answer = await wire.answer()
        assert (answer.status, answer.codes) == (400, ["UNSUPPORTED"])
        assert await wire.closed()


async def test_a_silent_connection_is_closed(start: StartFace) -> None:
    """A connection that never finishes its first request's headers is closed after the header timeout."""
    face = await start(header_timeout=0.1)
    async with Wire(face.addresses[0]) as wire:
        wire.writer.write(b"GET /v2/ HTTP/1.1\r\nX-Slow: ")
        async with asyncio.timeout(5):
            assert await wire.closed()


async def test_an_idle_connection_is_closed(start: StartFace) -> None:
    """A connection without a next request is closed after the idle timeout."""
    face = await start(idle_timeout=0.1)
    async with Wire(face.addresses[0]) as wire:
        assert (await wire.ask("/v2/")).status == 200
        async with asyncio.timeout(5):
            assert await wire.closed()


async def test_a_listener_of_an_upstream(start: StartFace, heart: MemoryHeart) -> None:
    """Requests on an upstream's own listener need no ``ns``."""
    face = await start(upstreams={"registry.test": Upstream(urls=("https://x",), listen=("127.0.0.1:0",))})
    heart.manifests["registry.test", "a", "latest"] = MANIFEST
    async with Wire(face.addresses[1]) as wire:
        assert (await wire.ask("/v2/a/manifests/latest")).body == BODY
    async with Wire(face.addresses[0]) as wire:
        assert (await wire.ask("/v2/a/manifests/latest")).codes == ["NAME_UNKNOWN"]


async def test_a_taken_address_is_a_configuration_error(start: StartFace) -> None:
    """The error names the key and the address; nothing is left listening."""
    face = await start()
    taken = f"127.0.0.1:{face.addresses[0][1]}"
    upstreams = {"registry.test": Upstream(urls=("https://x",), listen=(taken,))}
    with pytest.raises(
        ConfigInvalid, match=rf"upstream\.registry\.test\.listen: cannot listen on {taken}: .* \(another program"
    ):
        await start(upstreams=upstreams)


async def test_stop_lets_running_answers_finish(
    start: StartFace, heart: MemoryHeart, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stop no new connection is taken, and an answer under way is completed within the drain time."""
    blob = memory_blob(bytes(5000), chunk=1000)
    cut = web.Server.shutdown

    async def shutdown(self: web.Server, timeout: float) -> None:
        assert blob.faults.gate.is_set(), "cut before its time is over"
        await cut(self, timeout)

    monkeypatch.setattr(web.Server, "shutdown", shutdown)
    heart.blobs["registry.test", "a", str(blob.digest)] = blob
    blob.faults.at_chunk, blob.faults.gate = 3, asyncio.Event()
    face = await start(drain=10)
    async with Wire(face.addresses[0]) as wire, Wire(face.addresses[0]) as idle:
        assert (await idle.ask("/v2/")).status == 200
        wire.send(f"/v2/a/blobs/{blob.digest}?ns=registry.test")
        await blob.faults.waiting.wait()
        stopping = asyncio.create_task(face.stop())
        await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*face.addresses[0])
        for _ in range(20):  # as far as it gets without waiting
            await asyncio.sleep(0)
        blob.faults.gate.set()
        answer = await wire.answer()
        assert (answer.body, answer.complete) == (bytes(5000), True)
        await stopping
        assert await idle.closed()


async def test_stop_cuts_what_does_not_finish(start: StartFace, heart: MemoryHeart) -> None:
    """An answer that outlasts the drain time is cut, visibly."""
    blob = memory_blob(bytes(5000), chunk=1000)
    heart.blobs["registry.test", "a", str(blob.digest)] = blob
    blob.faults.at_chunk, blob.faults.gate = 3, asyncio.Event()
    face = await start(drain=0.05)
    async with Wire(face.addresses[0]) as wire:
        wire.send(f"/v2/a/blobs/{blob.digest}?ns=registry.test")
        await blob.faults.waiting.wait()
        await face.stop()
        assert not (await wire.answer()).complete
    assert blob.faults.left.is_set()


async def test_a_failure_may_name_what_is_no_text(wire: Wire, heart: MemoryHeart) -> None:
    """Bytes of an upstream's header that are no text are spelt out in the answer, which arrives."""
    heart.error = UpstreamUnreachable("it says a\udcffb")
    answer = await wire.ask("/v2/a/manifests/latest?ns=registry.test")
    assert (answer.status, answer.complete) == (502, True)
    assert b"udcffb" in answer.body


async def test_denied_is_passed_on(wire: Wire, heart: MemoryHeart) -> None:
    """An upstream's refusal is an answer: 403, and no challenge that would make a client send its secret."""
    heart.error = Denied("no")
    answer = await wire.ask("/v2/a/manifests/latest?ns=registry.test")
    assert (answer.status, answer.codes) == (403, ["DENIED"])
    assert "WWW-Authenticate" not in answer.headers
