"""What a server asks of the fetcher, and what it is told. Every call is answered by one message, a read by one for each piece."""

from typing import Any

import msgspec

from registry_proxy import errors
from registry_proxy.access.caller import Caller
from registry_proxy.access.gate import Subject
from registry_proxy.errors import RegistryProxyError, Trouble
from registry_proxy.oci.digest import Digest
from registry_proxy.oci.names import Reference, Repository, SourceHost
from registry_proxy.plan.chunk_objects import ChunkHashes
from registry_proxy.plan.ranges import Part
from registry_proxy.sources.base import BlobPlace


class Message(msgspec.Struct, frozen=True, tag=True):
    """Anything that is sent."""


# --- what is asked -----------------------------------------------------------------------------------------------------


class Open(Message, frozen=True, tag=True):
    """May this blob be read, and how long is it? Answer: Granted."""

    place: BlobPlace
    certain: bool


class OpenAnywhere(Message, frozen=True, tag=True):
    """The same, of a blob that was asked for without an upstream."""

    digest: Digest
    certain: bool


class Read(Message, frozen=True, tag=True):
    """These parts of a blob, piece by piece: see ``Next``. ``sent``: as for ``pull.blobs.OpenBlob.read``. Answer: Reading."""

    place: BlobPlace
    size: int
    parts: tuple[Part, ...]
    sent: dict[int, bytes] | None = None


class Next(Message, frozen=True, tag=True):
    """The next piece of the read. Answer: Here, Bytes or Over."""


class Show(Message, frozen=True, tag=True):
    """The bytes of the piece that was just named: it cannot be opened. Answer: Bytes."""


class GetChunk(Message, frozen=True, tag=True):
    """A chunk of a blob that anybody may pull. Answer: Here or Bytes, then as in a read."""

    place: BlobPlace
    index: int


class GetHashes(Message, frozen=True, tag=True):
    """The hashes of the chunks of a blob that anybody may pull. Answer: Hashes."""

    place: BlobPlace


class GetPlaces(Message, frozen=True, tag=True):
    """Where a blob lives. Answer: Places."""

    digest: Digest


class GetManifest(Message, frozen=True, tag=True):
    """A manifest. Answer: Manifest."""

    upstream: SourceHost
    repository: Repository
    reference: Reference
    no_cache: bool


class GetTags(Message, frozen=True, tag=True):
    """A page of tags. Answer: Page."""

    upstream: SourceHost
    repository: Repository
    n: int | None
    last: str | None


class GetCatalog(Message, frozen=True, tag=True):
    """A page of repositories. Answer: Page."""

    upstream: SourceHost
    n: int | None
    last: str | None


class GetReferrers(Message, frozen=True, tag=True):
    """The descriptors of what refers to a manifest. Answer: Descriptors."""

    upstream: SourceHost
    repository: Repository
    digest: Digest
    artifact_type: str | None


class Admit(Message, frozen=True, tag=True):
    """May this client of a pass-through upstream read this? Answer: Admitted."""

    upstream: SourceHost
    caller: Caller
    subject: Subject


class GetToken(Message, frozen=True, tag=True):
    """A token for a client of a pass-through upstream. Answer: Token."""

    upstream: SourceHost
    caller: Caller
    query: str


class GetStats(Message, frozen=True, tag=True):
    """The figures of ``/stats``. Answer: Stats."""


class Used(Message, frozen=True, tag=True):
    """Chunks of these groups have been read. Answer: Done."""

    groups: tuple[tuple[Digest, int], ...]


class Doubt(Message, frozen=True, tag=True):
    """This chunk was found wrong: it is to be looked at before it is given out again. Answer: Done."""

    digest: Digest
    index: int


Call = (
    Open
    | OpenAnywhere
    | Read
    | GetChunk
    | GetHashes
    | GetPlaces
    | GetManifest
    | GetTags
    | GetCatalog
    | GetReferrers
    | Admit
    | GetToken
    | GetStats
    | Used
    | Doubt
)


class Asked(msgspec.Struct, frozen=True):
    """A call. ``request``: the id of the client's request, for the log; ``hops``: the instances that it has passed."""

    call: Call
    request: str | None
    hops: tuple[str, ...]


# --- what is told ------------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag=True):
    """The first message of every connection. ``fetcher``: tells one life of the fetcher from the next."""

    fetcher: str


class Granted(Message, frozen=True, tag=True):
    """A blob that may be read. ``certain``, ``verified``, ``settled``: as of ``pull.blobs.OpenBlob``."""

    place: BlobPlace
    size: int
    certain: bool
    verified: bool
    settled: bool


class Reading(Message, frozen=True, tag=True):
    """The read has begun, and nothing stands in the way of its first piece."""


class Step(Message, frozen=True, tag=True):
    """What ``Next`` is answered with."""


class Found(Step, frozen=True, tag=True):
    """A piece."""


class Here(Found, frozen=True, tag=True):
    """Bytes ``[start, stop)`` of this chunk, which lies in the store and stays there until the next message from the server.

    ``identity``: of its file, which was found right; ``sha256``: of the whole chunk, where that is asked for.
    """

    index: int
    start: int
    stop: int
    tier: str
    identity: int
    sha256: bytes = b""


class Bytes(Found, frozen=True, tag=True):
    """The bytes themselves: no store has them."""

    index: int
    data: bytes
    tier: str
    sha256: bytes = b""


class Over(Step, frozen=True, tag=True):
    """There are no more pieces. ``verified``: of the blob, as it is now."""

    verified: bool


class Hashes(Message, frozen=True, tag=True):
    """The hashes of a verified blob's chunks."""

    hashes: ChunkHashes


class Places(Message, frozen=True, tag=True):
    """Where a blob lives, the newest first."""

    places: tuple[BlobPlace, ...]


class Manifest(Message, frozen=True, tag=True):
    """A manifest, as ``pull.manifests.ServedManifest`` has it. ``good_for``: seconds in which the answer stays the same."""

    digest: Digest
    media_type: str
    body: bytes
    stale: str | None
    tier: str
    good_for: float


class Page(Message, frozen=True, tag=True):
    """A page of names."""

    names: tuple[str, ...]
    more: bool


class Descriptors(Message, frozen=True, tag=True):
    """A JSON array of descriptors."""

    json: bytes


class Admitted(Message, frozen=True, tag=True):
    """It may, and that holds for so many seconds."""

    life: float


class Token(Message, frozen=True, tag=True):
    """The JSON that a token server answers with."""

    json: bytes


class Stats(Message, frozen=True, tag=True):
    """A JSON object."""

    json: bytes


class Done(Message, frozen=True, tag=True):
    """It was done."""


class Failed(Message, frozen=True, tag=True):
    """An error of ``registry_proxy.errors``: the name of its class, its text, and what else it says."""

    kind: str
    text: str
    says: dict[str, Any]


Answer = (
    Hello
    | Granted
    | Reading
    | Here
    | Bytes
    | Over
    | Hashes
    | Places
    | Manifest
    | Page
    | Descriptors
    | Admitted
    | Token
    | Stats
    | Done
    | Failed
)


_encoder = msgspec.msgpack.Encoder()
_asked = msgspec.msgpack.Decoder(Asked)
_step: msgspec.msgpack.Decoder[Next | Show] = msgspec.msgpack.Decoder(Next | Show)
_answer: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def pack(message: Message | Asked) -> bytes:
    """A message as bytes."""
    return _encoder.encode(message)


def asked(data: bytes) -> Asked:
    """What a server asks."""
    return _asked.decode(data)


def step(data: bytes) -> Next | Show:
    """What a server wants next in a read."""
    return _step.decode(data)


def told(data: bytes) -> Answer:
    """What the fetcher says; raises what it says has failed."""
    answer = _answer.decode(data)
    if isinstance(answer, Failed):
        raise _error(answer)
    return answer


def failed(error: RegistryProxyError) -> Failed:
    """An error, to be raised in the other process."""
    return Failed(type(error).__name__, str(error), dict(vars(error)))


def _error(failure: Failed) -> RegistryProxyError:
    kind = getattr(errors, failure.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, RegistryProxyError)):
        return Trouble(failure.text)
    error = kind.__new__(kind)
    Exception.__init__(error, failure.text)
    vars(error).update(failure.says)
    return error
