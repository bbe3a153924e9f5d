"""A token server as Docker Hub has one: tokens for a scope, anonymous or for an account, signed with openssl."""

import base64
import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.interop.harness.process import call
from tests.interop.harness.registries import PASSWORD, USER, basic

LIFETIME = 300  # seconds


class TokenServer(ThreadingHTTPServer):
    """Grants pull on what is asked for. `anonymous`: also without an account. `asked`: every request's query."""

    daemon_threads = True

    def __init__(self, directory: Path, *, anonymous: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.directory = directory
        self.anonymous = anonymous
        self.asked: list[dict[str, list[str]]] = []

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/token"

    def sign(self, access: list[dict[str, Any]]) -> str:
        """A JSON Web Token for what may be accessed."""
        now = int(time.time())
        certificate = "".join((self.directory / "cert.pem").read_text(encoding="utf-8").splitlines()[1:-1])
        header = {"typ": "JWT", "alg": "RS256", "x5c": [certificate]}
        claims = {
            "iss": "tests", "aud": "tests", "sub": "", "jti": str(now), "access": access,
            "iat": now - 10, "nbf": now - 10, "exp": now + LIFETIME,
        }  # fmt: skip
        text = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"
        signer = ["openssl", "dgst", "-sha256", "-sign", str(self.directory / "key.pem")]
        signature = subprocess.run(signer, input=text.encode(), capture_output=True, check=True, timeout=20).stdout
        return f"{text}.{encode(signature)}"


class Handler(BaseHTTPRequestHandler):
    """GET /token?service=…&scope=repository:NAME:pull"""

    server: TokenServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.server.asked.append(query)
        given = self.headers.get("Authorization")
        if given != basic(USER, PASSWORD) and (given is not None or not self.server.anonymous):
            self.answer(401, {"details": "who are you?"})
            return
        scopes = [scope.split(":") for value in query.get("scope", []) for scope in value.split()]
        access = [{"type": kind, "name": name, "actions": ["pull"]} for kind, name, _ in scopes]
        self.answer(200, {"token": self.server.sign(access), "expires_in": LIFETIME})

    def answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Requests are kept in `asked`."""


@contextlib.contextmanager
def token_server(directory: Path, *, anonymous: bool) -> Iterator[TokenServer]:
    """A running token server with a key of its own in `directory`."""
    call("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests",
         "-keyout", directory / "key.pem", "-out", directory / "cert.pem")  # fmt: skip
    with TokenServer(directory, anonymous=anonymous) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
