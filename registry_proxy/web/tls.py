"""TLS on the listeners, with certificates that can be renewed while connections are open.

A renewed pair is tried before it is used. What is broken is refused with one line in the log, and the old pair goes on.
"""

import asyncio
import ssl
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509

from registry_proxy.config import Tls
from registry_proxy.errors import ConfigInvalid

log = structlog.get_logger()

_LOOK_EVERY: Final = 5.0
"""Seconds between two looks at the files."""

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_Marks = tuple[tuple[int, int, int] | None, ...]
"""Of each file: what changes when it is replaced or written."""


class Certificates:
    """The certificates of the listeners. Raises ConfigInvalid, naming the key, if they cannot be used.

    ``context``: for the listeners; each new handshake uses the newest certificates that are right.
    """

    def __init__(self, settings: Tls) -> None:
        self.context = _Renewable(ssl.PROTOCOL_TLS_SERVER)
        self._settings = settings
        self._marks = _marks(settings)
        self._use(_load(settings))

    async def watch(self, every: float = _LOOK_EVERY) -> None:
        """Renew whenever a file has changed, until cancelled. ``every``: seconds between two looks."""
        while True:
            await asyncio.sleep(every)
            await self.renew(self._settings)

    async def renew(self, settings: Tls) -> None:
        """Use the files as they are now, if they or their names have changed and they are right."""
        marks = await asyncio.to_thread(_marks, settings)
        if (settings, marks) == (self._settings, self._marks):
            return
        self._settings, self._marks = settings, marks  # also if they are refused: that is told once
        try:
            self._use(await asyncio.to_thread(_load, settings))
        except ConfigInvalid as error:
            log.error("tls.refused", error=str(error))

    def _use(self, loaded: tuple[ssl.SSLContext, datetime]) -> None:
        self.context.newest, expires = loaded
        log.info("tls.loaded", certificate=str(self._settings.certificate), expires=expires.isoformat())


class _Renewable(ssl.SSLContext):
    """Stands for the newest context: asyncio asks the context of a listener for each connection's TLS by ``wrap_bio``.

    The alternative, loading new files into a context in use, cannot take back an old CA and is half done when the files are broken.
    """

    newest: ssl.SSLContext

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """One connection's TLS."""
        return self.newest.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def _marks(settings: Tls) -> _Marks:
    return tuple(_mark(path) for path in (settings.certificate, settings.key, settings.client_ca) if path is not None)


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()  # of the file behind a link: renewal tools switch links
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _load(settings: Tls) -> tuple[ssl.SSLContext, datetime]:
    """A context with these files, and when the certificate expires; raises ConfigInvalid."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.minimum]
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    expires = _expiry(settings.certificate)
    _load_pair(context, settings)
    if settings.client_ca is not None:
        authorities = _read("client_ca", settings.client_ca)
        try:
            context.load_verify_locations(cadata=authorities.decode("ascii"))
        except (ssl.SSLError, ValueError):
            raise ConfigInvalid(f"server.tls.client_ca: {settings.client_ca}: no certificates (PEM)") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context, expires


def _load_pair(context: ssl.SSLContext, settings: Tls) -> None:
    def encrypted() -> str:
        raise ConfigInvalid(f"server.tls.key: {settings.key}: the key is encrypted, and nobody is here to be asked")

    _read("key", settings.key)
    try:
        context.load_cert_chain(settings.certificate, settings.key, encrypted)
    except ssl.SSLError as error:
        why = "does not belong to the certificate" if error.reason == "KEY_VALUES_MISMATCH" else "not a key (PEM)"
        raise ConfigInvalid(f"server.tls.key: {settings.key}: {why}") from None
    except OSError as error:  # gone since it was read
        raise ConfigInvalid(f"server.tls: {error.strerror}") from None


def _read(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigInvalid(f"server.tls.{key}: {path}: {error.strerror}") from None


def _expiry(path: Path) -> datetime:
    """When the first certificate of a file, the server's own, expires."""
    try:
        return x509.load_pem_x509_certificates(_read("certificate", path))[0].not_valid_after_utc
    except ValueError:
        raise ConfigInvalid(f"server.tls.certificate: {path}: no certificate (PEM)") from None
