"""How the fake registry sends a blob: which bytes a Range means, and the faults and pace of a body."""

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from tests.fakes.faults import Chunked, Cut, Encoded, Endless, Flipped, Garbled, LoginPage, Long, Short, WrongRange

if TYPE_CHECKING:
    from tests.fakes.upstream import FakeUpstream


class Gone(web.StreamResponse):
    """No response at all."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing goes out."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing goes out."""


def drop(request: web.Request) -> web.StreamResponse:
    """Close the connection without an answer."""
    hang_up(request)
    return Gone()


def hang_up(request: web.Request) -> None:
    """Close the connection once what was written is out."""
    request.protocol.force_close()
    if request.transport is not None:
        request.transport.close()


async def send_blob(upstream: "FakeUpstream", request: web.Request, digest: Digest) -> web.StreamResponse:
    """Answer a GET or HEAD of a blob as the switches say."""
    data = upstream.content[digest]
    headers = {"Content-Type": "application/octet-stream", "ETag": upstream.etag or f'"{digest}"'}
    if upstream.digest_header:
        headers["Docker-Content-Digest"] = str(digest)
    if upstream.ranges:
        headers["Accept-Ranges"] = "bytes"
    if request.method == "HEAD":
        return _head(upstream, headers, len(data))
    if "Range" in request.headers and upstream.range_refusal is not None:
        return web.Response(status=upstream.range_refusal)
    spans = parse_range(request.headers.get("Range"), len(data)) if upstream.ranges else None
    if spans is not None and len(spans) > 1 and upstream.multi_range != "parts":
        if isinstance(upstream.multi_range, int):
            return web.Response(status=upstream.multi_range)
        spans = None
    if spans is None:
        return await _Body(upstream, request, digest).send(200, headers, Span(0, len(data)))
    if not spans:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{len(data)}"})
    if len(spans) > 1:
        return _parts(spans, data, headers)
    span = spans[0]
    headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{len(data)}"
    return await _Body(upstream, request, digest).send(206, headers, span)


def parse_range(header: str | None, size: int) -> list[Span] | None:
    """The satisfiable spans of a Range header; None where there is no usable one."""
    if header is None or not header.startswith("bytes="):
        return None
    spans = []
    for spec in header.removeprefix("bytes=").split(","):
        first, _, last = spec.strip().partition("-")
        if first:
            start, stop = int(first), min(int(last) + 1 if last else size, size)
        else:
            start, stop = max(size - int(last), 0), size
        if start < stop:
            spans.append(Span(start, stop))
    return spans


def _head(upstream: "FakeUpstream", headers: dict[str, str], size: int) -> web.Response:
    if upstream.head_length:
        return web.Response(headers=headers | {"Content-Length": str(size)})
    response = web.Response(headers=headers)
    response.enable_chunked_encoding()
    return response


def _parts(spans: list[Span], data: bytes, headers: dict[str, str]) -> web.Response:
    body = b""
    for span in spans:
        head = f"--FAKE\r\nContent-Range: bytes {span.start}-{span.stop - 1}/{len(data)}\r\n\r\n"
        body += head.encode() + data[span.start : span.stop] + b"\r\n"
    headers = headers | {"Content-Type": "multipart/byteranges; boundary=FAKE"}
    return web.Response(status=206, body=body + b"--FAKE--\r\n", headers=headers)


class _Body:
    """One body on its way out."""

    def __init__(self, upstream: "FakeUpstream", request: web.Request, digest: Digest) -> None:
        self._upstream, self._request, self._digest = upstream, request, digest
        self._fault = upstream.fault_for(digest)

    async def send(self, status: int, headers: dict[str, str], span: Span) -> web.StreamResponse:
        if isinstance(self._fault, LoginPage):
            return web.Response(body=self._fault.html, content_type="text/html")
        response = web.StreamResponse(status=status, headers=headers)
        self._declare(response, span)
        await response.prepare(self._request)
        if await self._write(response, span):
            await self._finish(response)
        return response

    def _declare(self, response: web.StreamResponse, span: Span) -> None:
        match self._fault:
            case Endless() | Chunked():
                response.enable_chunked_encoding()
                return
            case Encoded(encoding):
                response.headers["Content-Encoding"] = encoding
            case WrongRange(header) if response.status == 206:
                response.headers["Content-Range"] = header
            case _:
                pass
        by = {Short: -1, Long: 1}.get(type(self._fault), 0) * getattr(self._fault, "by", 0)
        response.content_length = len(span) + by

    async def _write(self, response: web.StreamResponse, span: Span) -> bool:
        """Send the bytes of ``span``; False if the connection was cut on purpose."""
        data = self._upstream.content[self._digest]
        stop = span.stop - (self._fault.by if isinstance(self._fault, Short) else 0)
        cut = span.start + self._fault.after if isinstance(self._fault, Cut) else None
        at = span.start
        while at < stop:
            end = min(at + self._upstream.piece, stop, stop if cut is None or cut >= stop else max(cut, at))
            if end == at:
                hang_up(self._request)
                return False
            end = at + await self._pace(end - at)
            await response.write(self._spoilt(data[at:end], at))
            self._upstream.ledger.note_sent(self._digest, Span(at, end))
            at = end
        return True

    def _spoilt(self, piece: bytes, start: int) -> bytes:
        match self._fault:
            case Garbled():
                return bytes(b ^ 0xFF for b in piece)
            case Flipped(at) if start <= at < start + len(piece):
                return piece[: at - start] + bytes([piece[at - start] ^ 0x10]) + piece[at - start + 1 :]
            case _:
                return piece

    async def _finish(self, response: web.StreamResponse) -> None:
        if isinstance(self._fault, Long):
            await response.write(b"x" * self._fault.by)
        while isinstance(self._fault, Endless):
            await response.write(b"x" * self._upstream.piece)
        await response.write_eof()

    async def _pace(self, wanted: int) -> int:
        if self._upstream.gate is not None:
            wanted = await self._upstream.gate.take(wanted)
        if self._upstream.bytes_per_second is not None:
            await asyncio.sleep(wanted / self._upstream.bytes_per_second)
        return wanted
