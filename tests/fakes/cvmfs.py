"""A small publisher of CVMFS repositories, and a web server for them that counts and can misbehave.

The publisher is independent of what it tests: it knows the format only from its description (cvmfs ``catalog_sql.h``,
``manifest.cc``, ``whitelist.cc``).
"""

import hashlib
import sqlite3
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

SHA1, RMD160, SHAKE128 = "", "-rmd160", "-shake128"
_FLAG = {SHA1: 0, RMD160: 1 << 8, SHAKE128: 2 << 8}
_SCHEMA = """
CREATE TABLE catalog (md5path_1 INTEGER, md5path_2 INTEGER, parent_1 INTEGER, parent_2 INTEGER, hardlinks INTEGER, hash BLOB,
 size INTEGER, mode INTEGER, mtime INTEGER, mtimens INTEGER, flags INTEGER, name TEXT, symlink TEXT, uid INTEGER, gid INTEGER,
 xattr BLOB, CONSTRAINT pk_catalog PRIMARY KEY (md5path_1, md5path_2));
CREATE TABLE chunks (md5path_1 INTEGER, md5path_2 INTEGER, offset INTEGER, size INTEGER, hash BLOB,
 CONSTRAINT pk_chunks PRIMARY KEY (md5path_1, md5path_2, offset, size));
CREATE TABLE nested_catalogs (path TEXT, sha1 TEXT, size INTEGER, CONSTRAINT pk_nested_catalogs PRIMARY KEY (path));
CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key));
INSERT INTO properties VALUES ('schema', '2.5'), ('schema_revision', '7');
"""


def blob_path(content: bytes) -> str:
    """Where a blob lies in the repository."""
    digits = hashlib.sha256(content).hexdigest()
    return f"/blobs/sha256/{digits[:2]}/{digits}"


def content_hash(data: bytes, tag: str) -> bytes:
    """The 20 bytes of a content hash."""
    if tag == SHAKE128:
        return hashlib.shake_128(data).digest(20)
    return hashlib.new("ripemd160" if tag == RMD160 else "sha1", data).digest()


def split_md5(path: str) -> tuple[int, int]:
    """A path's key in a catalog."""
    return struct.unpack("<qq", hashlib.md5(path.encode()).digest())


@cache
def rsa_key(number: int) -> rsa.RSAPrivateKey:
    """One of several keys, made once per test run."""
    assert number >= 0
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class File:
    """What to publish of one file. ``chunk``: bytes per chunk, None: unchunked; ``external``: its bytes are elsewhere."""

    content: bytes
    chunk: int | None = None
    compressed: bool = True
    external: bool = False
    tag: str | None = None


@dataclass
class Publisher:
    """Writes one repository below ``root``, as a web server serves it. ``tag``: the hash algorithm."""

    root: Path
    name: str = "test.example.org"
    tag: str = SHA1
    master: int = 0
    signer: int = 1
    revision: int = 0
    published: int = 1_700_000_000
    files: dict[str, File] = field(default_factory=dict)
    nested: tuple[str, ...] = ()
    wrong_sizes: dict[str, int] = field(default_factory=dict)

    # --- content -----------------------------------------------------------------------------------------------------------

    def blob(self, content: bytes, **how: object) -> str:
        """Add a blob; its path."""
        path = blob_path(content)
        self.files[path] = File(content, **how)  # type: ignore[arg-type]
        return path

    def publish(self, **letters: object) -> None:
        """Write everything, as the next revision. ``letters``: passed on to ``write_manifest``."""
        self.revision += 1
        self.published += 60
        children: list[tuple[str, str, int]] = []
        for prefix in sorted(self.nested, key=len, reverse=True):
            inside = {path: file for path, file in self.files.items() if _home(path, self.nested) == prefix}
            below = [
                child for child in children if _home(child[0], [n for n in self.nested if n != child[0]]) == prefix
            ]
            data = self._catalog(prefix, inside, below)
            children.append((prefix, self.put(zlib.compress(data), "C"), len(data)))
        top = [child for child in children if _home(child[0], [n for n in self.nested if n != child[0]]) == ""]
        data = self._catalog("", {p: f for p, f in self.files.items() if _home(p, self.nested) == ""}, top)
        root = self.put(zlib.compress(data), "C")
        self.write_whitelist()
        self.write_manifest(root, len(data), **letters)  # type: ignore[arg-type]

    def put(self, data: bytes, suffix: str = "", tag: str | None = None) -> str:
        """Write an object; its hash with the algorithm's tag."""
        tag = self.tag if tag is None else tag
        text = content_hash(data, tag).hex() + tag
        path = self.root / "data" / text[:2] / (text[2:] + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return text

    def _catalog(self, prefix: str, files: Mapping[str, File], nested: Iterable[tuple[str, str, int]]) -> bytes:
        path = self.root / "catalog.db"
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as database:
            database.executescript(_SCHEMA)
            database.execute("INSERT INTO properties VALUES ('root_prefix', ?)", (prefix,))
            directories = {prefix} | {str(parent) for each in files for parent in Path(each).parents} - {"/"}
            for directory in directories:
                _row(database, directory, None, 4096, 33 if directory == prefix and prefix else 1)
            for child, hash_text, size in nested:
                database.execute("INSERT INTO nested_catalogs VALUES (?, ?, ?)", (child, hash_text, size))
                _row(database, child, None, 4096, 3)
            for name, file in files.items():
                self._file(database, name, file)
        database.close()
        return path.read_bytes()

    def _file(self, database: sqlite3.Connection, name: str, file: File) -> None:
        tag = self.tag if file.tag is None else file.tag
        flags = 4 | _FLAG[tag] | (0 if file.compressed else 1 << 11) | (128 if file.external else 0)
        size = self.wrong_sizes.get(name, len(file.content))
        if file.chunk is None:
            return _row(database, name, self._object(file.content, "", tag, file), size, flags)
        for offset in range(0, len(file.content), file.chunk):
            part = file.content[offset : offset + file.chunk]
            digest = self._object(part, "P", tag, file)
            values = (*split_md5(name), offset, len(part), digest)
            database.execute("INSERT INTO chunks VALUES (?, ?, ?, ?, ?)", values)
        return _row(database, name, None, size, flags | 64)

    def _object(self, content: bytes, suffix: str, tag: str, file: File) -> bytes:
        data = zlib.compress(content) if file.compressed else content
        if file.external:
            return content_hash(data, tag)
        return bytes.fromhex(self.put(data, suffix, tag).removesuffix(tag))

    # --- letters -----------------------------------------------------------------------------------------------------------

    @property
    def certificate(self) -> x509.Certificate:
        """The self-signed certificate of the key that signs manifests."""
        return _certificate(self.signer)

    def write_key(self, path: Path) -> Path:
        """Write the public master key."""
        path.write_bytes(
            rsa_key(self.master).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        return path

    def write_manifest(
        self, root: str, size: int, *, ttl: int = 240, signer: int | None = None, extra: str = ""
    ) -> None:
        """Sign and write ``.cvmfspublished``."""
        certificate = self.put(zlib.compress(_certificate(self.signer).public_bytes(Encoding.PEM)), "X")
        body = (
            f"C{root}\nB{size}\nRd41d8cd98f00b204e9800998ecf8427e\nN{self.name}\nX{certificate}\nD{ttl}\n"
            f"S{self.revision}\nT{self.published}\n{extra}"
        ).encode()
        line = self._hash_line(body)
        key = rsa_key(self.signer if signer is None else signer)
        signature = key.sign(line, padding.PKCS1v15(), hashes.SHA1())
        (self.root / ".cvmfspublished").write_bytes(body + b"--\n" + line + b"\n" + signature)

    def write_whitelist(
        self,
        *,
        expires: datetime | None = None,
        fingerprints: Iterable[str] | None = None,
        master: int | None = None,
        extra: str = "",
    ) -> None:
        """Sign and write ``.cvmfswhitelist``; by default it is good for 30 days from now."""
        expires = expires or datetime.now(UTC) + timedelta(days=30)
        listed = "".join(f"{each}\n" for each in (fingerprints or [self.fingerprint()]))
        body = f"{datetime.now(UTC):%Y%m%d%H%M%S}\nE{expires:%Y%m%d%H%M%S}\nN{self.name}\n{extra}{listed}".encode()
        line = self._hash_line(body)
        numbers = rsa_key(self.master if master is None else master).private_numbers()
        n = numbers.public_numbers.n
        block = b"\x00\x01" + b"\xff" * (n.bit_length() // 8 - 3 - len(line)) + b"\x00" + line
        signature = pow(int.from_bytes(block), numbers.d, n).to_bytes(n.bit_length() // 8)
        (self.root / ".cvmfswhitelist").write_bytes(body + b"--\n" + line + b"\n" + signature)

    def fingerprint(self) -> str:
        """The certificate's, as whitelists write it."""
        digest = content_hash(self.certificate.public_bytes(Encoding.DER), self.tag)
        return digest.hex(":").upper() + self.tag.upper()

    def _hash_line(self, body: bytes) -> bytes:
        return (content_hash(body, self.tag).hex() + self.tag).encode()


@cache
def _certificate(signer: int) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "releases")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(rsa_key(signer).public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=365))
    return builder.sign(rsa_key(signer), hashes.SHA256())


def _home(path: str, prefixes: Iterable[str]) -> str:
    """The longest prefix that has the path."""
    return max((each for each in prefixes if path == each or path.startswith(f"{each}/")), key=len, default="")


def _row(database: sqlite3.Connection, path: str, digest: bytes | None, size: int, flags: int) -> None:
    parent = split_md5(str(Path(path).parent).removesuffix("/")) if path else (0, 0)
    name = path.rpartition("/")[2]
    values = (*split_md5(path), *parent, 1, digest, size, 0o644, 0, 0, flags, name, "", 0, 0, None)
    database.execute(f"INSERT INTO catalog VALUES ({', '.join('?' * 16)})", values)


Mischief = Callable[[web.Request, bytes], "web.StreamResponse | bytes | None"]
Hang = Callable[[web.Request], Awaitable["web.StreamResponse | None"]]


class CvmfsServer:
    """Serves a directory. ``asked``: paths in order.

    ``mischief`` sees each request with the right body and may answer otherwise; ``hang``: by path, what to wait for first; ``sendfile``: answer without a body in memory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.mischief: Mischief | None = None
        self.hang: dict[str, Hang] = {}
        self.sendfile = False
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._server = TestServer(app)

    @property
    def url(self) -> str:
        """The repository's URL."""
        return str(self._server.make_url("")).rstrip("/")

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop serving."""
        await self._server.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        self.asked.append(path)
        self.headers.append(request.headers)
        if path in self.hang and (answer := await self.hang[path](request)) is not None:
            return answer
        file = self.root / path
        if self.sendfile and file.is_file():
            return web.FileResponse(file)
        body = file.read_bytes() if file.is_file() else b""
        if self.mischief is not None:
            other = self.mischief(request, body)
            if isinstance(other, web.StreamResponse):
                return other
            body = body if other is None else other
        if not file.is_file():
            return web.Response(status=404)
        if (asked := request.http_range) and asked.start is not None:
            start, stop = asked.start, min(asked.stop, len(body))
            said = {"Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"}
            return web.Response(status=206, body=body[start:stop], headers=said)
        return web.Response(body=body, headers={"Cache-Control": f"max-age={61 if path.startswith('.') else 259200}"})
