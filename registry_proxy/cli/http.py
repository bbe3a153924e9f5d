"""Talking to a running instance from the command line: blocking, for use in threads, with a way to stop them all.

The standard library's client is enough here: no credentials, no redirects, one host.
"""

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from registry_proxy.errors import ConfigInvalid, RegistryProxyError
from registry_proxy.oci.foreign import Unreadable, decode

BLOCK: Final = 1 << 20
"""Bytes of a body held in memory at once."""

_LOGIN: Final = "; commands log in nowhere: have a client pull it that does (docs/access.md, 'Commands')"
_FIGURES: Final = 64 << 20
"""Bytes of figures."""

_UNKNOWN: Final = 404
_BUSY: Final = (429, 503)
_ATTEMPTS: Final = 6
_LONGEST_WAIT: Final = 60.0


class InstanceUnreachable(RegistryProxyError):
    """No instance answers at this URL."""


class InstanceRefused(RegistryProxyError):
    """The instance answered, but not with what was asked for, or broke off. ``status``: of its answer, if that was the reason."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Stopped(RegistryProxyError):
    """``Instance.stop`` was called."""


@dataclass(slots=True)
class Instance:
    """A running instance at ``url``. Every wait for a byte ends after ``timeout`` seconds. ``ca``: who signs its certificate."""

    url: str
    timeout: float = 60.0
    ca: Path | None = None
    _open: set[socket.socket] = field(default_factory=set)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def check_alive(self) -> None:
        """Raises InstanceUnreachable, with the reason, unless an instance answers its health URL within two seconds."""
        with self._answer("/healthz", {}, timeout=2.0) as answer:
            if answer.status != 200:
                raise InstanceUnreachable(
                    f"{self.url}: not an instance of this program: /healthz answered {answer.status}"
                )

    def get(self, path: str, headers: dict[str, str], limit: int) -> bytes:
        """The body at a path, at most ``limit`` bytes; raises InstanceUnreachable, InstanceRefused."""
        body = bytearray()
        self.drain(path, headers, body.extend, limit)
        return bytes(body)

    def figures(self) -> dict[str, Any]:
        """What the instance says of itself; raises InstanceUnreachable or, of another program, InstanceRefused."""
        try:
            return decode(self.get("/stats", {}, _FIGURES), dict[str, Any])
        except Unreadable as error:
            raise InstanceRefused(f"{self.url}/stats: not an instance of this program: {error}") from error
        except InstanceRefused as refusal:
            if refusal.status != _UNKNOWN:
                raise
            raise InstanceRefused(f"{self.url}/stats: not an instance of this program: 404") from None

    def ask(self, path: str, headers: dict[str, str], limit: int) -> bytes:
        """As ``get``, but asked for once: a busy instance refuses, and says so by the status."""
        body = bytearray()
        with self._answer(path, headers, self.timeout) as answer:
            self._body(path, answer, body.extend, limit, 200)
        return bytes(body)

    def pause(self, seconds: float) -> None:
        """Wait; raises Stopped if ``stop`` is called meanwhile."""
        if self._stopped.wait(seconds):
            raise Stopped("stopped")

    def drain(
        self, path: str, headers: dict[str, str], receive: Callable[[bytes], object], limit: int | None = None
    ) -> int:
        """Hand the body at a path to ``receive`` block by block; the number of bytes.

        A busy instance is asked again when it says so. Raises InstanceUnreachable, InstanceRefused (a status other than 200, or
        206 where ``headers`` have a Range, fewer bytes than promised, more than ``limit``) or Stopped.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            with self._answer(path, headers, self.timeout) as answer:
                if answer.status not in _BUSY or attempt == _ATTEMPTS:
                    return self._body(path, answer, receive, limit, 206 if "Range" in headers else 200)
                wait = _retry_after(answer)
            self.pause(wait)
        raise AssertionError("the last attempt returns or raises")

    def stop(self) -> None:
        """End every exchange under way, from any thread."""
        self._stopped.set()
        for connected in tuple(self._open):
            with contextlib.suppress(OSError):  # closed a moment ago
                connected.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _answer(self, path: str, headers: dict[str, str], timeout: float) -> Iterator[http.client.HTTPResponse]:
        url = urlsplit(self.url)
        connection: http.client.HTTPConnection
        if url.scheme == "https":
            connection = http.client.HTTPSConnection(url.netloc, timeout=timeout, context=self._trust())
        else:
            connection = http.client.HTTPConnection(url.netloc, timeout=timeout)
        try:
            self._connect(connection)
            with self._stoppable(connection.sock):
                connection.request("GET", url.path + path, headers=headers)
                with connection.getresponse() as answer:
                    yield answer
        except (OSError, http.client.HTTPException) as error:
            self._check_stopped()
            raise InstanceUnreachable(f"{self.url}: {error or type(error).__name__}") from error
        finally:
            connection.close()

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.connect()
        except OSError as error:
            self._check_stopped()
            raise InstanceUnreachable(
                f"no instance answers at {self.url} ({error.strerror or error or type(error).__name__}): {_advice(error)}"
            ) from error

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise ConfigInvalid(f"--ca: {self.ca}: {error.strerror or error}") from None

    @contextlib.contextmanager
    def _stoppable(self, connected: socket.socket) -> Iterator[None]:
        """While this lasts, ``stop`` wakes whoever waits for the socket."""
        self._open.add(connected)
        try:
            self._check_stopped()
            yield
        finally:
            self._open.discard(connected)

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise Stopped("stopped")

    def _body(
        self,
        path: str,
        answer: http.client.HTTPResponse,
        receive: Callable[[bytes], object],
        limit: int | None,
        status: int,
    ) -> int:
        if answer.status != status:
            said = refusal(answer.status, answer.read(BLOCK)) or f"{self.url}{path} answered {answer.status}"
            raise InstanceRefused(said + (_LOGIN if answer.status == 401 else ""), answer.status)
        promised, count = answer.length, 0
        while block := answer.read(BLOCK):
            count += len(block)
            if limit is not None and count > limit:
                raise InstanceRefused(f"{self.url}{path} sent more than {limit} bytes")
            receive(block)
        self._check_stopped()
        if promised is not None and count != promised:
            raise InstanceRefused(f"{self.url}{path} broke off after {count} of {promised} bytes")
        return count


def _advice(error: OSError) -> str:
    """What to do when an instance cannot be talked to."""
    match error:
        case ssl.SSLCertVerificationError():
            return "name the CA of its certificate by --ca FILE, or its name in there by --server URL"
        case ssl.SSLError():
            return "does it speak https? --server URL says"
        case _:
            return "start one by registry-proxy serve, or name another by --server URL"


def _retry_after(answer: http.client.HTTPResponse) -> float:
    text = answer.getheader("Retry-After", "")
    return min(float(text), _LONGEST_WAIT) if text.isascii() and text.isdigit() else 5.0


def refusal(status: int, body: bytes) -> str | None:
    """What an OCI error body says (distribution-spec, "Error Codes"), or None if it is none."""
    try:
        first = json.loads(body)["errors"][0]
        return f"{status} {first['code']}: {first['message']}"
    except (ValueError, LookupError, TypeError):
        return None
