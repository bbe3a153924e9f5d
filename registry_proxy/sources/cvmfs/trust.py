"""From a server's letters to a manifest that may be believed, and what of it outlives a restart."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from registry_proxy.errors import RepositoryRefused, UpstreamBroken
from registry_proxy.sources.cvmfs import letters
from registry_proxy.sources.cvmfs.catalog import CatalogRef
from registry_proxy.sources.cvmfs.hashes import ContentHash
from registry_proxy.sources.cvmfs.letters import MAX_LETTER, Blacklist, Manifest, Whitelist
from registry_proxy.sources.cvmfs.servers import Servers
from registry_proxy.sources.cvmfs.sinks import Memory
from registry_proxy.sources.cvmfs.wire import NotThere, WrongBytes

_RENEW = 86400.0
"""Seconds before a whitelist's end from which on a new one is looked for, though nothing else has changed."""


class Kept(msgspec.Struct, frozen=True):
    """Letters as they came, as they are kept on disk: to start without a server, and never to go back behind them."""

    manifest: bytes
    certificate: bytes
    whitelist: bytes


@dataclass(frozen=True)
class Trusted:
    """A manifest that was verified, and by what."""

    manifest: Manifest
    certificate: x509.Certificate
    whitelist: Whitelist
    kept: Kept

    @property
    def root(self) -> CatalogRef:
        """The root catalog."""
        return CatalogRef(self.manifest.root, self.manifest.root_size, self.manifest.alternative)


class Notary:
    """Verifies the letters of one repository. ``clock``: seconds since the epoch."""

    def __init__(
        self, repository: str, keys: Sequence[RSAPublicKey], servers: Servers, clock: Callable[[], float]
    ) -> None:
        self._repository = repository
        self._keys = keys
        self._servers = servers
        self._clock = clock

    def recheck(self, held: Trusted, blacklist: Blacklist) -> None:
        """Raise RepositoryRefused unless what was believed may still be: time passes, and blacklists grow."""
        letters.check(self._repository, held.manifest, held.certificate, held.whitelist, blacklist, self._clock())

    def revive(self, kept: Kept, blacklist: Blacklist) -> Trusted:
        """What was kept, verified as if it came from a server now; raises RepositoryRefused."""
        return self._trust(Manifest.parse(kept.manifest, self._repository), kept, blacklist)

    def floor(self, kept: Kept) -> tuple[int, int]:
        """The age behind which nothing may go back."""
        return Manifest.parse(kept.manifest, self._repository).age

    async def ask(
        self, server: str, held: Trusted | None, floor: tuple[int, int], blacklist: Blacklist, *, no_cache: bool
    ) -> Trusted:
        """What a server publishes now: ``held`` itself if nothing has changed.

        ``floor``: the age of the latest manifest ever believed. Raises RepositoryRefused or Trouble in another form.
        """
        data = await self._letter(server, ".cvmfspublished", no_cache)
        manifest = Manifest.parse(data, self._repository)
        if held and manifest.root == held.manifest.root and held.whitelist.expires - self._clock() > _RENEW:
            return held
        if manifest.age < floor:
            raise RepositoryRefused(f"{server} goes back to revision {manifest.revision}")
        if held and manifest.certificate == held.manifest.certificate:
            pem = held.kept.certificate
        else:
            pem = await self._certificate(server, manifest.certificate, no_cache)
        whitelist = await self._letter(server, ".cvmfswhitelist", no_cache)
        return self._trust(manifest, Kept(data, pem, whitelist), blacklist)

    def _trust(self, manifest: Manifest, kept: Kept, blacklist: Blacklist) -> Trusted:
        whitelist = Whitelist.parse(kept.whitelist, self._repository, self._keys)
        certificate = letters.load_certificate(kept.certificate)
        trusted = Trusted(manifest, certificate, whitelist, kept)
        self.recheck(trusted, blacklist)
        return trusted

    async def _certificate(self, server: str, wanted: ContentHash, no_cache: bool) -> bytes:
        data = await self._letter(server, wanted.path("X"), no_cache, wanted)
        if ContentHash.of(data, wanted.algorithm) != wanted:
            raise RepositoryRefused(f"{server} sends a certificate that does not hash to {wanted}")
        return letters.inflate_certificate(data)

    async def _letter(self, server: str, path: str, no_cache: bool, key: ContentHash | None = None) -> bytes:
        sink = Memory(MAX_LETTER)
        try:
            await self._servers.ask(server, path, sink, no_cache=no_cache, key=key.digest if key else None)
        except WrongBytes as error:
            raise RepositoryRefused(f"{server}/{path}: {error}") from error
        except NotThere:
            raise UpstreamBroken(f"{server}/{path}: not there") from None
        return bytes(sink.data)


class Shelf:
    """The file that keeps a repository's letters. Its methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Kept | None:
        """What was kept; None if nothing was, or nothing that can be read."""
        try:
            return msgspec.msgpack.decode(self._path.read_bytes(), type=Kept)
        except (OSError, msgspec.DecodeError):
            return None

    def write(self, kept: Kept) -> None:
        """Keep these; raises OSError."""
        draft = self._path.with_suffix(".tmp")
        with draft.open("wb") as file:
            file.write(msgspec.msgpack.encode(kept))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
