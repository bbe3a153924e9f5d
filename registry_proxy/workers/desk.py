"""The fetcher's side: answers what the servers ask, with the services of an ordinary instance."""

import asyncio
import secrets
import socket
from typing import Final

import msgspec
import structlog

from registry_proxy.app import Instance
from registry_proxy.errors import RegistryProxyError, SizeContested, Trouble
from registry_proxy.net.hops import HOPS
from registry_proxy.pull.blobs import OpenBlob
from registry_proxy.telemetry.logs import REQUEST
from registry_proxy.tiers.layout import GroupKey
from registry_proxy.workers import calls
from registry_proxy.workers.calls import (
    Admit,
    Admitted,
    Answer,
    Call,
    Descriptors,
    Done,
    Doubt,
    GetCatalog,
    GetChunk,
    GetHashes,
    GetManifest,
    GetPlaces,
    GetReferrers,
    GetStats,
    GetTags,
    GetToken,
    Granted,
    Hashes,
    Hello,
    Manifest,
    Open,
    OpenAnywhere,
    Page,
    Places,
    Read,
    Stats,
    Token,
    Used,
)
from registry_proxy.workers.reading import give_chunk, give_parts
from registry_proxy.workers.wire import Wire, WireLost

_log = structlog.get_logger()

_BACKLOG: Final = 1024


class Desk:
    """Answers on every connection that comes; who goes away is worked for no longer."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._hello = calls.pack(Hello(secrets.token_hex(8)))
        self._serving: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    async def start(self, listening: socket.socket) -> None:
        """Take connections from this socket."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(lambda: Wire(self._meet), sock=listening, backlog=_BACKLOG)

    async def stop(self, patience: float) -> None:
        """Take no more, wait for the servers to leave for so many seconds, then end what is under way."""
        if self._listener is not None:
            self._listener.close()
        if self._serving:
            await asyncio.wait(self._serving, timeout=patience)
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    def _meet(self, wire: Wire) -> None:
        task = asyncio.create_task(self._serve(wire), name="connection of a server")
        wire.when_lost(task.cancel)
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, wire: Wire) -> None:
        """Answer one call after the other."""
        try:
            wire.send(self._hello)
            while True:
                asked = calls.asked(await wire.receive())
                REQUEST.set(asked.request)
                HOPS.set(asked.hops)
                wire.send(calls.pack(await self._answer_or_failure(wire, asked.call)))
        except WireLost:
            pass
        finally:
            wire.close()

    async def _answer_or_failure(self, wire: Wire, call: Call) -> Answer:
        try:
            return await self._answer(wire, call)
        except WireLost:
            raise
        except RegistryProxyError as error:
            return calls.failed(error)
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not leave a server waiting
            _log.exception("call.broke", call=type(call).__name__)
            return calls.failed(Trouble(f"internal error: {error!r}"))

    async def _answer(self, wire: Wire, call: Call) -> Answer:
        """The answer, or the last one to a call that has several."""
        instance = self._instance
        match call:
            case Open(place, certain):
                return _granted(await instance.blobs.open(place, certain=certain))
            case OpenAnywhere(digest, certain):
                return _granted(await instance.blobs.open_anywhere(digest, certain=certain))
            case Read():
                return await self._read(wire, call)
            case GetChunk(place, index):
                return await give_chunk(wire, await instance.public.chunk(place, index), index)
            case GetManifest():
                return await self._manifest(call)
            case Used(groups):
                instance.store.used(GroupKey(digest, number) for digest, number in groups)
                return Done()
            case Doubt(digest, index):
                instance.store.doubt(digest, index)
                return Done()
            case Admit(upstream, caller, subject):
                return Admitted(await instance.upstreams.passing[upstream].admit(caller, subject))
            case GetToken(upstream, caller, query):
                return Token(await instance.upstreams.realms[upstream].token(caller, query))
            case GetStats():
                return Stats(msgspec.json.encode(await instance.figures.stats()))
            case _:
                return await self._list(call)

    async def _list(self, call: GetTags | GetCatalog | GetReferrers | GetHashes | GetPlaces) -> Answer:
        instance = self._instance
        match call:
            case GetTags(upstream, repository, n, last):
                page = await instance.discovery.tags(upstream, repository, n, last)
                return Page(page.names, page.more)
            case GetCatalog(upstream, n, last):
                page = await instance.discovery.catalog(upstream, n, last)
                return Page(page.names, page.more)
            case GetReferrers(upstream, repository, digest, artifact_type):
                found = await instance.discovery.referrers(upstream, repository, digest, artifact_type)
                return Descriptors(msgspec.json.encode(found))
            case GetHashes(place):
                return Hashes(await instance.public.hashes(place))
            case GetPlaces(digest):
                return Places(await instance.public.places(digest))

    async def _read(self, wire: Wire, call: Read) -> Answer:
        blob = await self._instance.blobs.open(call.place)
        if blob.size != call.size:
            raise SizeContested(f"{call.place.digest} has {blob.size} bytes, not {call.size} as it was said to have")
        return await give_parts(wire, blob, call.parts, call.sent)

    async def _manifest(self, call: GetManifest) -> Manifest:
        manifests = self._instance.manifests
        asked = call.upstream, call.repository, call.reference
        served = await manifests.get(*asked, no_cache=call.no_cache)
        good_for = 0.0 if served.stale else manifests.good_for(*asked)
        return Manifest(served.digest, served.media_type, served.body, served.stale, served.tier, good_for)


def _granted(blob: OpenBlob) -> Granted:
    return Granted(blob.place, blob.size, blob.certain, blob.verified, blob.certain and blob.settled)
