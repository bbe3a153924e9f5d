"""The SOCI snapshotter as a registry sees it: it finds an image's index, fetches zTOCs, then spans of layers by range.

Finding and fetching is done by the library that it does it with (`socifind`); what it does with layers is modelled on its own source
(0.15: fs/remote/resolver.go, fs/span-manager) and on what it was seen to send. What it would not take is a Failure here.
"""

import http.client
import json
import re
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import Literal

import msgspec

from registry_proxy.lazy.files import normal_path
from registry_proxy.lazy.ztoc.header import Entry
from registry_proxy.lazy.ztoc.index import ZtocIndex
from registry_proxy.lazy.ztoc.ztoc import Ztoc, parse, points
from registry_proxy.oci.content import ACCEPT, OCI_INDEX
from registry_proxy.plan.chunks import Span
from tests.interop.harness.process import Failure, call
from tests.setup.programs import program

AT_ONCE = 6  # spans that it fetches at the same time
TIMEOUT = 120.0  # seconds for a request


class SociClient:
    """Its requests to one repository: `name` is what follows /v2/."""

    def __init__(self, address: str, name: str) -> None:
        self._address = address
        self._name = name

    def tagged(self, tag: str) -> str:
        """The digest of the image that is first in an index, found as containerd does."""
        status, headers, _ = self.ask(f"/manifests/{tag}", method="HEAD", Accept=ACCEPT)
        if status != 200 or headers.get_content_type() != OCI_INDEX:
            raise Failure(f"{tag}: {status}, {headers['Content-Type']}")
        status, _, body = self.ask(f"/manifests/{headers['Docker-Content-Digest']}", Accept=f"{OCI_INDEX}, */*")
        if status != 200 or len(body) != int(headers["Content-Length"]):
            raise Failure(f"the index under {tag}: {status}, {len(body)} bytes")
        return str(json.loads(body)["manifests"][0]["digest"])

    def layers(self, image: str, version: Literal["v1", "v2"]) -> list["SociLayer"]:
        """The layers that an image's index names, in its order. `image`: the digest of its manifest."""
        with tempfile.TemporaryDirectory(prefix="socifind-") as scratch:
            said = call(program("socifind"), version, f"{self._address}/{self._name}", image, scratch)
            named = [(each["layer"], each["ztoc"]) for each in json.loads(said)["layers"]]
            return [self._layer(layer, Path(scratch, "blobs", *ztoc.split(":")).read_bytes()) for layer, ztoc in named]

    def _layer(self, digest: str, ztoc: bytes) -> "SociLayer":
        status, _, _ = self.ask(f"/blobs/{digest}", Range="bytes=0-1")  # where does it live?
        if status // 100 != 2:
            raise Failure(f"{digest}: {status}")
        self.span(digest, Span(0, 10))
        return SociLayer(self, digest, parse(ztoc))

    def span(self, digest: str, span: Span) -> bytes:
        """A part of a layer; raises Failure if it is not exactly what was asked for."""
        asked = f"bytes={span.start}-{span.stop - 1}"
        status, headers, data = self.ask(f"/blobs/{digest}", Range=asked, Accept_Encoding="identity")
        found = re.fullmatch(r"bytes (\d+)-(\d+)/\d+", headers["Content-Range"] or "")
        sent = Span(int(found[1]), int(found[2]) + 1) if found else None
        is_plain = headers["Accept-Ranges"] == "bytes" and headers["Content-Encoding"] is None
        if status != 206 or sent != span or len(data) != len(span) or not is_plain:
            raise Failure(f"{digest}, {asked}: {status}, {headers['Content-Range']}, {len(data)} bytes")
        return data

    def ask(self, path: str, *, method: str = "GET", **headers: str) -> tuple[int, Message, bytes]:
        """Status, headers and body, as they come; underscores in the names of headers stand for hyphens."""
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, f"/v2/{self._name}{path}", headers=sent)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


class SociLayer:
    """A layer and its zTOC; each span is fetched once, checked by its hash and kept."""

    def __init__(self, client: SociClient, digest: str, ztoc: Ztoc) -> None:
        self.digest = digest
        self.ztoc = ztoc
        self.entries: dict[str, Entry] = {normal_path(entry.name): entry for entry in ztoc.entries}
        self._client = client
        self._starts = [point.uncompressed for point in points(ztoc)]
        self._by_number = ZtocIndex(_one_file_per_span(ztoc, self._starts))
        self._spans: dict[int, bytes] = {}

    def tar(self) -> bytes:
        """All of the layer's tar."""
        return self._bytes(0, self.ztoc.uncompressed)

    def read(self, path: str) -> bytes:
        """A regular file's contents."""
        entry = self.entries[path]
        return self._bytes(entry.offset, entry.offset + entry.size)

    def _bytes(self, start: int, stop: int) -> bytes:
        first = max(bisect_right(self._starts, start) - 1, 0)
        numbers = range(first, bisect_left(self._starts, stop))
        self._fetch(numbers)
        data = b"".join(self._spans[number] for number in numbers)
        return data[start - self._starts[first] : stop - self._starts[first]]

    def _fetch(self, numbers: Iterable[int]) -> None:
        wanted = [number for number in numbers if number not in self._spans]
        if len(wanted) > 1:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                self._spans.update(zip(wanted, pool.map(self._span, wanted), strict=True))
        elif wanted:
            self._spans[wanted[0]] = self._span(wanted[0])

    def _span(self, number: int) -> bytes:
        file = self._by_number.files[str(number)]
        return b"".join(self._by_number.content(file, lambda span: self._client.span(self.digest, span)))


def _one_file_per_span(ztoc: Ztoc, starts: list[int]) -> Ztoc:
    """The zTOC as if each span held one file, named by its number: reading that reads one range and checks one hash."""
    some_file = next(entry for entry in ztoc.entries if entry.kind == "reg")
    entries = tuple(
        msgspec.structs.replace(some_file, name=b"%d" % number, offset=start, size=stop - start)
        for number, (start, stop) in enumerate(zip(starts, [*starts[1:], ztoc.uncompressed], strict=True))
    )
    return replace(ztoc, entries=entries)
