"""A server between a Squid and a parent that changes chunks on their way, for a Squid to keep: how a cache gets poisoned."""

import base64
import contextlib
import hashlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from tests.interop.harness.process import free_port

HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


class Meddler:
    """What it does to chunks that go to a Squid: nothing, flips a byte, or flips it and corrects the Repr-Digest."""

    def __init__(self, behind: str) -> None:
        self.mode: Literal["honest", "flip", "forge"] = "honest"
        self.address = f"127.0.0.1:{free_port()}"
        self.meddled = 0
        host, port = self.address.split(":")
        meddler = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                upstream = http.client.HTTPConnection(behind, timeout=30)
                with contextlib.closing(upstream):
                    upstream.request("GET", self.path, headers={k: v for k, v in self.headers.items() if k != "Host"})
                    response = upstream.getresponse()
                    body = response.read()
                headers = {k: v for k, v in response.getheaders() if k.lower() not in HOP_BY_HOP}
                if "squid" in self.headers.get("Via", "") and response.status == 200:
                    body = meddler.meddle(body, headers)
                self.send_response_only(response.status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer((host, int(port)), Handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def meddle(self, body: bytes, headers: dict[str, str]) -> bytes:
        """The body as it is passed on; a forged Repr-Digest goes into the headers."""
        if self.mode == "honest":
            return body
        self.meddled += 1
        body = bytes([body[0] ^ 1]) + body[1:]
        if self.mode == "forge":
            digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
            headers["Repr-Digest"] = f"sha-256=:{digest}:"
        return body


@contextlib.contextmanager
def meddler(behind: str) -> Iterator[Meddler]:
    """One in front of host:port."""
    running = Meddler(behind)
    thread = threading.Thread(target=running.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.server.shutdown()
        running.server.server_close()
        thread.join(10)
