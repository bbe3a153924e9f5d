"""A registry on a real socket, in this process, with a switch for every way an upstream can misbehave.

    async with FakeUpstream(ranges=False) as upstream:
        digest = upstream.add_blob(b"...")
        manifest = upstream.add_image(layers=[b"...", b"..."], tag="v1")
        ...                                            # talk to upstream.url
        upstream.ranges = True                         # every switch may be turned while it runs
        assert upstream.sent(digest) == 3

It listens on three ports of 127.0.0.1: the registry, a storage host that blobs are redirected to (``redirect=True``) and a
token server (``auth="bearer"``). Content lives in repositories; ``REPOSITORY`` is the one that is meant if none is named.

- What it was asked: ``upstream.requests``, ``upstream.asked(kind, method, server)``; ``await upstream.until_asked(n, kind)``.
  Kinds: ping, manifest, blob, tags, referrers, catalog, storage, token.
- What it sent: ``sent(digest)``, ``distinct(digest)``, ``most_often(digest)``, ``sent_spans(digest)``; ``await until_sent(digest, n)``.
- Whole answers that go wrong: ``fail(kind, status)``, ``drop(kind)``, ``hold(kind)`` (an Event to set).
- Blob bodies that go wrong: ``spoil(fault, digest=…, times=…)`` with the faults of ``tests.fakes.faults``.
- Slow bodies: ``upstream.gate = Gate()`` and ``gate.release(bytes)``; or ``bytes_per_second`` for a real pace.
"""

import asyncio
import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ssl import SSLContext
from types import TracebackType
from typing import Literal, Self

from aiohttp import web

from registry_proxy.oci import content
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from tests.fakes import answers, body
from tests.fakes.faults import BodyFault, Gate
from tests.fakes.ledger import Asked, Ledger

REPOSITORY = "team/app"


@dataclass
class Override:
    """What happens to requests of a kind instead of an answer, so many more times (None: always)."""

    kind: str
    status: int = 0
    times: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    event: asyncio.Event | None = None


@dataclass
class Spoiled:
    """A fault for bodies of a blob (None: any), so many more times (None: always)."""

    fault: BodyFault
    digest: Digest | None
    times: int | None


@dataclass(kw_only=True, eq=False)
class FakeUpstream:
    """The registry. The fields are its switches.

    ``ranges``: 206 to a Range, else 200 with everything. ``range_refusal``: answer a Range with this status instead.
    ``multi_range``: parts, whole (200), or a status. ``head_length``: HEAD of a blob tells its size. ``head_blob``: HEAD of a blob
    is allowed at all. ``etag``: of every blob (None: its digest). ``rate_limit``: Docker Hub's headers, (limit, remaining).
    ``realm``: what the Bearer challenge names instead of the token server. ``public_pull``: tokens are given to anybody.
    ``strangers``: names and passwords of those who may log in, and read nothing.
    """

    ranges: bool = True
    range_refusal: int | None = None
    multi_range: Literal["parts", "whole"] | int = "parts"
    redirect: bool = False
    fleeting: bool = False
    head_length: bool = True
    head_blob: bool = True
    digest_header: bool = True
    referrers_api: bool = True
    etag: str | None = None
    rate_limit: tuple[str, str] | None = None
    auth: Literal["bearer", "basic"] | None = None
    username: str = "robot"
    password: str = "s3cret"
    identity_token: str | None = None
    public_pull: bool = True
    strangers: Mapping[str, str] = field(default_factory=dict)
    realm: str | None = None
    expires_in: int | None = 300
    gate: Gate | None = None
    bytes_per_second: float | None = None
    piece: int = 64 * 1024
    tls: SSLContext | None = None
    tag_page: int = 1000

    def __post_init__(self) -> None:
        self.ledger = Ledger()
        self.content: dict[Digest, bytes] = {}
        self.members: set[tuple[str, Digest]] = set()
        self.media_types: dict[Digest, str] = {}
        self.tags: dict[tuple[str, str], Digest] = {}
        self.tokens: dict[str, str] = {}
        self.signature = secrets.token_hex(4)
        self._overrides: list[Override] = []
        self._spoiled: list[Spoiled] = []
        self._ports: dict[int, str] = {}
        self._runner: web.AppRunner | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Listen on three free ports."""
        await self._listen(dict.fromkeys(("registry", "storage", "token"), 0))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, cutting whatever still runs."""
        await self.stop()

    async def stop(self) -> None:
        """Go away: connections are refused from now on."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def come_back(self) -> None:
        """Listen again, on the same ports."""
        await self._listen({server: port for port, server in self._ports.items()})

    async def _listen(self, ports: Mapping[str, int]) -> None:
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        for server, port in ports.items():
            site = web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=self.tls)
            await site.start()
            self._ports[self._runner.addresses[-1][1]] = server

    def url_of(self, server: str) -> str:
        """``http://127.0.0.1:port`` of the registry, storage or token server."""
        port = next(port for port, name in self._ports.items() if name == server)
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{port}"

    @property
    def url(self) -> str:
        """Where the registry listens."""
        return self.url_of("registry")

    @property
    def host(self) -> str:
        """``host:port`` of the registry."""
        return self.url.partition("//")[2]

    # --- content ------------------------------------------------------------------------------------------------------

    def add_blob(self, data: bytes, *, repository: str = REPOSITORY, algorithm: str = "sha256") -> Digest:
        """Keep a blob in a repository; its digest."""
        digest = Digest.of(data, algorithm)
        self.content[digest] = data
        self.members.add((repository, digest))
        return digest

    def add_manifest(
        self,
        data: bytes,
        media_type: str = content.OCI_MANIFEST,
        *,
        tag: str | None = None,
        repository: str = REPOSITORY,
    ) -> Digest:
        """Keep a manifest in a repository, tagged if a tag is given; its digest."""
        digest = self.add_blob(data, repository=repository)
        self.media_types[digest] = media_type
        if tag is not None:
            self.tags[repository, tag] = digest
        return digest

    def add_image(
        self,
        *,
        layers: Sequence[bytes] = (b"a layer",),
        tag: str | None = "latest",
        repository: str = REPOSITORY,
        config: bytes = b'{"architecture":"amd64","os":"linux"}',
        artifact_type: str | None = None,
        subject: Digest | None = None,
        media_type: str = content.OCI_MANIFEST,
        annotations: Mapping[str, str] | None = None,
    ) -> Digest:
        """Keep an image: its layers, config and manifest; the manifest's digest."""
        fields = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "artifactType": artifact_type,
            "config": self._descriptor(config, "application/vnd.oci.image.config.v1+json", repository),
            "layers": [
                self._descriptor(each, "application/vnd.oci.image.layer.v1.tar+gzip", repository) for each in layers
            ],
            "subject": subject and {"mediaType": content.OCI_MANIFEST, "digest": str(subject), "size": 0},
            "annotations": annotations,
        }
        data = json.dumps({key: value for key, value in fields.items() if value is not None}).encode()
        return self.add_manifest(data, media_type, tag=tag, repository=repository)

    def add_index(
        self, manifests: Mapping[str, Digest], *, tag: str | None = "latest", repository: str = REPOSITORY
    ) -> Digest:
        """Keep an index of manifests by platform, ``{"linux/amd64": digest, …}``; the index's digest."""
        entries = []
        for platform, digest in manifests.items():
            system, _, architecture = platform.partition("/")
            entry = {"mediaType": self.media_types[digest], "digest": str(digest), "size": len(self.content[digest])}
            entries.append(entry | {"platform": {"os": system, "architecture": architecture}})
        data = json.dumps({"schemaVersion": 2, "mediaType": content.OCI_INDEX, "manifests": entries}).encode()
        return self.add_manifest(data, content.OCI_INDEX, tag=tag, repository=repository)

    def remove(self, digest: Digest, *, repository: str = REPOSITORY) -> None:
        """Forget a blob or manifest of a repository."""
        self.members.discard((repository, digest))

    def _descriptor(self, data: bytes, media_type: str, repository: str) -> dict[str, object]:
        return {"mediaType": media_type, "digest": str(self.add_blob(data, repository=repository)), "size": len(data)}

    # --- what goes wrong ----------------------------------------------------------------------------------------------

    def fail(
        self,
        kind: str,
        status: int,
        *,
        times: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        """Requests of a kind get this status instead of an answer, so many times (None: until ``heal``)."""
        self._overrides.append(Override(kind, status, times, headers or {}, body))

    def drop(self, kind: str, *, times: int | None = None) -> None:
        """Requests of a kind get a closed connection instead of an answer."""
        self._overrides.append(Override(kind, times=times))

    def hold(self, kind: str) -> asyncio.Event:
        """Requests of a kind wait for the event that is returned before they are answered."""
        event = asyncio.Event()
        self._overrides.append(Override(kind, event=event))
        return event

    def spoil(self, fault: BodyFault, *, digest: Digest | None = None, times: int | None = None) -> None:
        """GETs of a blob (None: any) go wrong in this way, so many times (None: until ``heal``)."""
        self._spoiled.append(Spoiled(fault, digest, times))

    def heal(self) -> None:
        """Undo ``fail``, ``drop``, ``hold`` and ``spoil``."""
        self._overrides.clear()
        self._spoiled.clear()

    def expire_signatures(self) -> None:
        """Signed URLs given out so far get 403 from the storage server."""
        self.signature = secrets.token_hex(4)

    def revoke_tokens(self) -> None:
        """Tokens given out so far get 401."""
        self.tokens.clear()

    # --- what was seen ------------------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[Asked]:
        """Every request in order, those to the storage and token servers too."""
        return self.ledger.requests

    def asked(self, kind: str | None = None, method: str | None = None, server: str | None = None) -> list[Asked]:
        """The requests of a kind (None: any)."""
        return self.ledger.asked(kind, method, server)

    def sent(self, digest: Digest) -> int:
        """Bytes of a blob written so far, each as often as it was written."""
        return self.ledger.sent(digest)

    def sent_spans(self, digest: Digest) -> list[Span]:
        """The spans of a blob written so far, in order of time, piece by piece."""
        return self.ledger.spans[digest]

    def distinct(self, digest: Digest) -> int:
        """Bytes of a blob written at least once."""
        return self.ledger.distinct(digest)

    def most_often(self, digest: Digest) -> int:
        """How often the byte written most often was written: 1 says that each byte was fetched once."""
        return self.ledger.most_often(digest)

    async def until_asked(self, count: int, kind: str | None = None, method: str | None = None) -> None:
        """Wait until so many requests of a kind have come in."""
        await self.ledger.until_asked(count, kind, method)

    async def until_sent(self, digest: Digest, count: int) -> None:
        """Wait until so many bytes of a blob have been written."""
        await self.ledger.until_sent(digest, count)

    # --- answers ------------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        server = self._ports[request.get_extra_info("sockname")[1]]
        kind = server if server != "registry" else _kind(request.path)
        query, headers = dict(request.query), request.headers.copy()
        self.ledger.note_request(Asked(server, kind, request.method, request.path, query, headers))
        self.ledger.running += 1
        self.ledger.most_running = max(self.ledger.most_running, self.ledger.running)
        try:
            return await self._overridden(request, kind) or await answers.answer(self, request, server, kind)
        finally:
            self.ledger.running -= 1

    async def _overridden(self, request: web.Request, kind: str) -> web.StreamResponse | None:
        for override in self._overrides:
            if override.kind != kind or override.times == 0:
                continue
            if override.event is not None:
                await override.event.wait()
                return None
            if override.times is not None:
                override.times -= 1
            if override.status == 0:
                return body.drop(request)
            return web.Response(status=override.status, headers=override.headers, body=override.body)
        return None

    def fault_for(self, digest: Digest) -> BodyFault | None:
        """The fault that the next body of a blob has, used up by asking."""
        for spoiled in self._spoiled:
            if spoiled.times != 0 and spoiled.digest in {None, digest}:
                if spoiled.times is not None:
                    spoiled.times -= 1
                return spoiled.fault
        return None

    @property
    def basic(self) -> str:
        """The Authorization value of the right name and password."""
        return _basic(self.username, self.password)

    def is_stranger(self, authorization: str | None) -> bool:
        """True for the name and password of somebody who may read nothing."""
        return authorization in {_basic(*each) for each in self.strangers.items()}


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def _kind(path: str) -> str:
    if path == "/v2/_catalog":
        return "catalog"
    if path.rstrip("/") == "/v2":
        return "ping"
    return next((kind for kind, separator in answers.SEPARATORS.items() if separator in path), "other")
