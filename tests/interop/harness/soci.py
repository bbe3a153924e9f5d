"""The SOCI snapshotter as a registry sees it: it finds an image's index, fetches zTOCs, then spans of layers by range."""

import hashlib
import json
import urllib.parse
import urllib.request
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import msgspec

from registry_proxy.lazy.files import normal_path
from registry_proxy.lazy.soci import INDEX_DIGEST, INDEX_V1, LAYER_DIGEST
from registry_proxy.lazy.ztoc.header import Entry
from registry_proxy.lazy.ztoc.index import ZtocIndex
from registry_proxy.lazy.ztoc.ztoc import Ztoc, parse, points
from registry_proxy.plan.chunks import Span
from tests.interop.harness.process import Failure

AT_ONCE = 6  # spans that it fetches at the same time
TIMEOUT = 120.0  # seconds for a request


class SociClient:
    """Its requests to one repository: `name` is what follows /v2/. `received`: bytes of bodies, one number for each answer."""

    def __init__(self, address: str, name: str) -> None:
        self._base = f"http://{address}/v2/{name}"
        self.received: list[int] = []

    def get(self, path: str, span: Span | None = None) -> bytes:
        """A body, or a part of it; raises Failure for any other answer than the one that it wants."""
        headers = {"Range": f"bytes={span.start}-{span.stop - 1}"} if span else {}
        with urllib.request.urlopen(urllib.request.Request(self._base + path, headers=headers), timeout=TIMEOUT) as got:
            data: bytes = got.read()
            if got.status != (206 if span else 200) or (span and len(data) != len(span)):
                raise Failure(f"{path}, {span}: {got.status}, {len(data)} bytes")
        self.received.append(len(data))
        return data

    def checked(self, path: str) -> bytes:
        """What has a digest in its path; raises Failure if it has another one."""
        data = self.get(path)
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != path.rpartition("/")[2]:
            raise Failure(f"{path} has another digest")
        return data

    def index_by_referrers(self, manifest: str) -> bytes:
        """v1: the first referrer of the type."""
        listed = json.loads(self.get(f"/referrers/{manifest}?artifactType={urllib.parse.quote(INDEX_V1, safe='')}"))
        found = [each for each in listed["manifests"] if each["artifactType"] == INDEX_V1]
        return self.checked(f"/manifests/{found[0]['digest']}")

    def index_by_annotation(self, tag: str) -> bytes:
        """v2: what the image manifest names."""
        listed = json.loads(self.get(f"/manifests/{tag}"))
        manifest = json.loads(self.checked(f"/manifests/{listed['manifests'][0]['digest']}"))
        return self.checked(f"/manifests/{manifest['annotations'][INDEX_DIGEST]}")

    def layers(self, index: bytes) -> list["SociLayer"]:
        """The layers that an index names, in its order; it has to be what Go's JSON makes of it, since that is what is hashed."""
        document: dict[str, Any] = json.loads(index)
        if json.dumps(document, separators=(",", ":")).encode() != index:
            raise Failure("the index is not as Go would write it")
        return [
            SociLayer(self, each["annotations"][LAYER_DIGEST], parse(self.checked(f"/blobs/{each['digest']}")))
            for each in document["layers"]
        ]


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
        for probe in (2, 10):
            client.get(f"/blobs/{digest}", Span(0, probe))

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
        return b"".join(self._by_number.content(file, lambda span: self._client.get(f"/blobs/{self.digest}", span)))


def _one_file_per_span(ztoc: Ztoc, starts: list[int]) -> Ztoc:
    """The zTOC as if each span held one file, named by its number: reading that reads one range and checks one hash."""
    some_file = next(entry for entry in ztoc.entries if entry.kind == "reg")
    entries = tuple(
        msgspec.structs.replace(some_file, name=b"%d" % number, offset=start, size=stop - start)
        for number, (start, stop) in enumerate(zip(starts, [*starts[1:], ztoc.uncompressed], strict=True))
    )
    return replace(ztoc, entries=entries)
