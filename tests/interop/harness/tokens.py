"""A token server as registries have one (distribution's "Token Authentication" and "OAuth2 Token Authentication").

Tokens are signed for a real docker-registry, which trusts the certificate in `directory` (`registries.token`). docker-registry 2.8
takes a token for `LEEWAY` more seconds than it lives; `TokenServer.exact` makes up for that.
"""

import base64
import contextlib
import datetime as dt
import json
import secrets
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from tests.interop.harness.rights import Rights

LIFETIME = 300  # seconds
LEEWAY = 60  # seconds for which docker-registry 2.8 goes on taking a token that is over
LARGEST_FORM = 64 * 1024
Query = dict[str, list[str]]


class TokenServer(ThreadingHTTPServer):
    """Grants what `rights` say when a token is asked for.

    `lifetime`: seconds that new tokens live; `exact`: docker-registry refuses them then, and not `LEEWAY` later; `asked`: the query
    or form of every request; `who`: the user of every token given out, None for nobody in particular.
    """

    daemon_threads = True

    def __init__(self, directory: Path, rights: Rights) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rights = rights
        self.lifetime = LIFETIME
        self.exact = False
        self.asked: list[Query] = []
        self.who: list[str | None] = []
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        certificate = _certificate(self._key)
        (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self._chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/token"

    def token(self, user: str | None, *scopes: str) -> str:
        """A token for what the user may do of that; the `access` claim is empty if it is nothing."""
        now = int(time.time())
        end = now + self.lifetime - (LEEWAY if self.exact else 0)
        claims = {
            "iss": "tests", "aud": "tests", "sub": user or "", "jti": secrets.token_hex(8), "iat": now,
            "nbf": min(now, end) - 10, "exp": end, "access": self.rights.access(user, scopes),
        }  # fmt: skip
        header = {"typ": "JWT", "alg": "RS256", "x5c": self._chain}
        text = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"
        signature = self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        self.who.append(user)
        return f"{text}.{encode(signature)}"


class Handler(BaseHTTPRequestHandler):
    """GET with Basic or nothing, POST with a form; `scope=repository:NAME:pull` any number of times."""

    server: TokenServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.server.asked.append(query)
        known, user = self.basic()
        if not known:
            self.answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]})
            return
        fields: dict[str, Any] = {"token": self.server.token(user, *scopes(query))}
        if user is not None and query.get("offline_token") == ["true"]:
            fields["refresh_token"] = self.server.rights.refresh_token(user)
        self.answer(200, fields | {"expires_in": self.server.lifetime})

    def do_POST(self) -> None:
        length = min(int(self.headers.get("Content-Length", "0")), LARGEST_FORM)
        form = parse_qs(self.rfile.read(length).decode())
        self.server.asked.append(form)
        user = self.grantee({name: values[0] for name, values in form.items()})
        if user is None:
            self.answer(401, {"error": "invalid_grant"})
            return
        fields: dict[str, Any] = {
            "access_token": self.server.token(user, *scopes(form)),
            "scope": " ".join(scopes(form)),
        }
        if form.get("access_type") == ["offline"]:
            fields["refresh_token"] = self.server.rights.refresh_token(user)
        self.answer(200, fields | {"expires_in": self.server.lifetime})

    def basic(self) -> tuple[bool, str | None]:
        """Whether to go on, and for whom."""
        given = self.headers.get("Authorization")
        if given is None:
            return not self.server.rights.closed, None
        kind, _, secret = given.partition(" ")
        user, _, password = base64.b64decode(secret).decode().partition(":") if kind == "Basic" else ("", "", "")
        return self.server.rights.knows(user, password), user

    def grantee(self, form: dict[str, str]) -> str | None:
        """For whom an OAuth2 form asks rightly."""
        if form.get("grant_type") == "refresh_token":
            return self.server.rights.owner(form.get("refresh_token", ""))
        user = form.get("username", "")
        right = form.get("grant_type") == "password" and self.server.rights.knows(user, form.get("password", ""))
        return user if right else None

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
def token_server(directory: Path, rights: Rights) -> Iterator[TokenServer]:
    """A running token server; the certificate of its key is `cert.pem` in `directory`."""
    with TokenServer(directory, rights) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def scopes(query: Query) -> list[str]:
    """The scopes of a request: the parameter may be repeated, and each may have several."""
    return [scope for value in query.get("scope", []) for scope in value.split()]


def encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _certificate(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
