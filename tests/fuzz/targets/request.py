"""Requests as they come from the socket: aiohttp's parser with the server's limits, then everything that reads a request's head."""

import asyncio
import contextlib
from unittest import mock

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage

from registry_proxy.errors import RegistryProxyError
from registry_proxy.plan import ranges
from registry_proxy.web.connection import MAX_HEADERS
from tests.fuzz.targets import target_path

_LOOP = asyncio.new_event_loop()
_TRANSPORT = mock.create_autospec(asyncio.Transport, instance=True)


def run(data: bytes) -> None:
    """Each message that the parser gives is read as `web.edge` and `web.blobs` read it."""
    protocol = BaseProtocol(_LOOP)
    protocol.transport = _TRANSPORT
    parser = HttpRequestParser(
        protocol,
        _LOOP,
        2**16,
        max_line_size=16384,
        max_field_size=65536,
        max_headers=MAX_HEADERS,
        auto_decompress=False,
    )
    with contextlib.suppress(HttpProcessingError):
        messages, _, _ = parser.feed_data(data)
        for message, _ in messages:
            _read(message)


def _read(message: RawRequestMessage) -> None:
    namespace = message.headers.get("OCI-Namespace")
    target_path.read(message.path, namespace)
    values = message.headers.getall("Range", None)
    header = None if values is None else ", ".join(values)
    with contextlib.suppress(RegistryProxyError):
        ranges.decide(message.method, header, message.headers.get("If-Range"), '"etag"', 1000, 16)
    ranges.not_modified(message.headers.get("If-None-Match"), '"etag"')
