"""An instance for the command line to talk to: canned answers on a real socket, and a record of what was asked."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import structlog

from registry_proxy.oci.content import OCI_INDEX, OCI_MANIFEST
from registry_proxy.oci.digest import Digest


@dataclass
class Canned:
    """One answer; ``promise``: its Content-Length, if that is to be a lie."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    promise: int | None = None


class FakeInstance:
    """Answers by path; a path's answers are used up one by one, the last one stays."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Canned]] = {"/healthz": [Canned(b"ok")]}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.hold: threading.Event | None = None
        self.held = threading.Event()

    def put(self, path: str, *answers: Canned) -> None:
        self.answers[path] = list(answers)

    def blob(self, repository: str, ns: str, body: bytes) -> dict[str, object]:
        """Serve a blob; its descriptor."""
        self.put(f"/v2/{repository}/blobs/{Digest.of(body)}?ns={ns}", Canned(body))
        return {"digest": str(Digest.of(body)), "size": len(body), "mediaType": "application/octet-stream"}

    def manifest(
        self, repository: str, ns: str, document: dict[str, object], tag: str | None = None
    ) -> dict[str, object]:
        """Serve a manifest by digest and perhaps by tag; its descriptor."""
        body = json.dumps(document).encode()
        for reference in filter(None, (str(Digest.of(body)), tag)):
            self.put(f"/v2/{repository}/manifests/{reference}?ns={ns}", Canned(body))
        return {"digest": str(Digest.of(body)), "size": len(body), "mediaType": document["mediaType"]}

    def image(self, repository: str, ns: str, layers: list[bytes], tag: str | None = None) -> dict[str, object]:
        """Serve an image of these layers; the descriptor of its manifest."""
        config = self.blob(repository, ns, b"{}" + repository.encode())
        found = [self.blob(repository, ns, layer) for layer in layers]
        return self.manifest(repository, ns, {"mediaType": OCI_MANIFEST, "config": config, "layers": found}, tag)

    def index(self, repository: str, ns: str, images: dict[str, dict[str, object]], tag: str) -> dict[str, object]:
        """Serve an index of images by platform."""
        entries = []
        for platform, descriptor in images.items():
            system, architecture, *variant = platform.split("/")
            found = {"os": system, "architecture": architecture, "variant": "".join(variant)}
            entries.append({**descriptor, "platform": found})
        return self.manifest(repository, ns, {"mediaType": OCI_INDEX, "manifests": entries}, tag)

    def paths(self, kind: str) -> list[str]:
        """The references that were asked for, of manifests or blobs."""
        return [path.partition(f"/{kind}/")[2].partition("?")[0] for path, _ in self.asked if f"/{kind}/" in path]


def _handler(fake: FakeInstance) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.asked.append((self.path, dict(self.headers)))
            answers = fake.answers.get(self.path, [Canned(status=404)])
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(answer.body) if answer.promise is None else answer.promise))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)
            if fake.hold is not None and "/blobs/" in self.path:
                self.wfile.flush()
                fake.held.set()
                fake.hold.wait(30)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    return Handler


@pytest.fixture
def fake() -> FakeInstance:
    return FakeInstance()


@pytest.fixture
def server(fake: FakeInstance) -> Iterator[str]:
    """The URL of the fake instance."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake)) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            if fake.hold is not None:
                fake.hold.set()
            listening.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the configuration or cache of whoever runs it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("REGISTRY_PROXY_CONFIG", raising=False)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No verb changes the logging of the process that tests it, and no event is printed between what a verb prints."""
    monkeypatch.setattr("registry_proxy.telemetry.logs.configure", lambda *_: None)
    with structlog.testing.capture_logs():
        yield
