"""lazy: files of an image listed and read by the parts of its layers that hold them."""

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from registry_proxy.cli import main
from registry_proxy.lazy.soci import INDEX_V1, LAYER_DIGEST
from registry_proxy.lazy.ztoc.builder import ZtocBuilder
from registry_proxy.lazy.ztoc.ztoc import encode
from registry_proxy.oci.content import OCI_MANIFEST
from registry_proxy.oci.digest import Digest
from registry_proxy.plan.chunks import Span
from tests.lazy.layers import entry_tar, estargz, link, tar, zstd_chunked

BIG = b"".join(hashlib.sha512(b"%d" % i).digest() for i in range(4000))


class Registry:
    """An instance of one image, which answers ranges and writes down what of each blob was asked for."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {"/healthz": b"ok"}
        self.asked: list[tuple[str, Span]] = []

    def image(self, *layers: tuple[bytes, dict[str, str]]) -> None:
        found = [self._blob(data) | {"annotations": annotations} for data, annotations in layers]
        document = {"mediaType": OCI_MANIFEST, "config": self._blob(b"{}"), "layers": found}
        self.bodies["/v2/library/lazy/manifests/latest?ns=docker.io"] = json.dumps(document).encode()

    def offer(self, layer: bytes, ztoc: bytes) -> None:
        """A SOCI index of the image, in which one layer has a zTOC; another referrer stands before it."""
        image = Digest.of(self.bodies["/v2/library/lazy/manifests/latest?ns=docker.io"])
        described = self._blob(ztoc) | {"annotations": {LAYER_DIGEST: str(Digest.of(layer))}}
        index = json.dumps({"artifactType": INDEX_V1, "layers": [described]}).encode()
        self.bodies[f"/v2/library/lazy/manifests/{Digest.of(index)}?ns=docker.io"] = index
        found = [{"artifactType": "a/signature", "digest": f"sha256:{'0' * 64}"},
                 {"artifactType": INDEX_V1, "digest": str(Digest.of(index))}]  # fmt: skip
        self.bodies[f"/v2/library/lazy/referrers/{image}?ns=docker.io"] = json.dumps({"manifests": found}).encode()

    def _blob(self, data: bytes) -> dict[str, object]:
        digest = str(Digest.of(data))
        self.bodies[f"/v2/library/lazy/blobs/{digest}?ns=docker.io"] = data
        return {"digest": digest, "size": len(data)}

    def fetched(self, layer: bytes) -> int:
        """Bytes of a layer that were sent."""
        return sum(len(span) for path, span in self.asked if str(Digest.of(layer)) in path)

    def answer(self, path: str, wanted: str | None) -> tuple[int, bytes]:
        body = self.bodies.get(path)
        if body is None:
            return 404, b""
        span = Span(0, len(body))
        if wanted:
            start, stop = wanted.removeprefix("bytes=").split("-")
            span = Span(int(start), int(stop) + 1)
        self.asked.append((path, span))
        return 206 if wanted else 200, body[span.start : span.stop]


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def url(registry: Registry) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = registry.answer(self.path, self.headers.get("Range"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


def run(url: str, *words: str) -> int:
    return main.run(["lazy", words[0], "lazy", *words[1:], "--server", url])


@pytest.mark.parametrize("form", ["estargz", "storage", "stargz"])
def test_cat_fetches_the_file_and_little_else(
    registry: Registry, url: str, capfdbinary: pytest.CaptureFixture[bytes], form: str
) -> None:
    """Of a layer with an index only footer, table of contents and the file's own frames are fetched."""
    files = {"etc/os-release": b"ID=lazy\n", "usr/lib/big": BIG}
    layer, annotations = (estargz(files, 1 << 16)[0], {}) if form == "estargz" else zstd_chunked(files, form, 1 << 16)
    registry.image((layer, annotations))
    assert run(url, "cat", "/etc/os-release") == 0
    assert capfdbinary.readouterr().out == b"ID=lazy\n"
    assert registry.fetched(layer) < len(layer) / 10
    assert run(url, "cat", "usr/lib/big") == 0
    assert capfdbinary.readouterr() == (BIG, b"")


def test_cat_of_an_ordinary_layer_by_its_ztoc(
    registry: Registry, url: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """With a zTOC made of the layer file before, only the file's span is fetched."""
    layer = gzip.compress(tar({"big": BIG * 60, "last": b"the end"}), 1)
    registry.image((layer, {}))
    file = tmp_path / "layer.tar.gz"
    file.write_bytes(layer)
    assert main.run(["lazy", "index", str(file), "--to", str(tmp_path)]) == 0
    made = tmp_path / f"{Digest.of(layer).hex}.ztoc"
    assert capfdbinary.readouterr().out.decode() == f"{made}\n"
    with ZtocBuilder() as builder:
        builder.feed(layer)
        assert made.read_bytes() == encode(builder.finish())
    assert run(url, "cat", "last", "--ztocs", str(tmp_path)) == 0
    assert capfdbinary.readouterr().out == b"the end"
    assert registry.fetched(layer) < len(layer) / 2


@pytest.mark.parametrize("damaged", [False, True])
def test_cat_of_an_ordinary_layer_by_the_instance_s_ztoc(
    registry: Registry, url: str, capfdbinary: pytest.CaptureFixture[bytes], damaged: bool
) -> None:
    """With a SOCI index among the image's referrers, only the file's span is fetched; a zTOC of another digest is not used."""
    layer = gzip.compress(tar({"big": BIG * 60, "last": b"the end"}), 1)
    registry.image((layer, {}))
    with ZtocBuilder() as builder:
        builder.feed(layer)
        ztoc = encode(builder.finish())
    registry.offer(layer, ztoc)
    if damaged:
        registry.bodies[f"/v2/library/lazy/blobs/{Digest.of(ztoc)}?ns=docker.io"] = ztoc[::-1]
    assert run(url, "cat", "last") == 0
    assert capfdbinary.readouterr().out == b"the end"
    assert (registry.fetched(layer) < len(layer) / 2) is not damaged


def test_cat_of_an_ordinary_layer_without_ztoc(
    registry: Registry, url: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Without one, the layer passes once, is checked by its digest, and the file is there all the same."""
    layer = gzip.compress(tar({"a": b"contents"}))
    registry.image((layer, {}))
    assert run(url, "cat", "a") == 0
    assert capfdbinary.readouterr().out == b"contents"
    path = next(path for path in registry.bodies if str(Digest.of(layer)) in path)
    registry.bodies[path] = gzip.compress(tar({"a": b"CONTENTS"})).ljust(len(layer), b"\0")
    assert run(url, "cat", "a") == 1


def test_ls_shows_the_image_as_a_container_sees_it(
    registry: Registry, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Upper layers replace and hide what is below; whiteouts and the formats' own files are not listed."""
    lower = gzip.compress(tar({"a": b"old", "gone": b"x", "dir/one": b"1", "dir/two": b"2"}))
    upper, _ = estargz(
        {"a": b"newer", ".wh.gone": b"", "dir/.wh..wh..opq": b"", "dir/three": b"3", ".prefetch.landmark": b"\x0f"}
    )
    registry.image((lower, {}), (upper, {}))
    assert run(url, "ls", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["image"] == "docker.io/library/lazy:latest"
    assert {(one["path"], one["size"], one["layer"], one["format"]) for one in document["files"]} == {
        ("a", 5, 1, "estargz"),
        ("dir/three", 1, 1, "estargz"),
    }


def test_ls_of_a_store_it_does_not_know(
    registry: Registry, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an instance elsewhere has cached is unknown, unless its store is named and can be read; a folder is never cached."""
    folder, file = tarfile.TarInfo("dir"), tarfile.TarInfo("a")
    folder.type = tarfile.DIRTYPE
    registry.image((gzip.compress(entry_tar([folder, file])), {}))
    for more in ((), ("--store", str(tmp_path / "nowhere"))):
        assert run(url, "ls", *more) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert [(line[-1], line[4]) for line in lines] == [("a", "?"), ("dir", "-")]
    assert run(url, "ls", "--json") == 0
    assert [file["cached"] for file in json.loads(capsys.readouterr().out)["files"]] == [None, None]


def test_ls_escapes_what_a_terminal_would_obey(
    registry: Registry, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file's name cannot clear the screen, and one that is not UTF-8 does not break the list."""
    registry.image((gzip.compress(tar({"\x1b[2Jx": b"", "caf\udce9": b""}, tarfile.GNU_FORMAT)), {}))
    assert run(url, "ls") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert [line.split()[-1] for line in out.splitlines()] == ["\\x1b[2Jx", "caf\\udce9"]


def test_symbolic_and_hard_links_are_followed(
    registry: Registry, url: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A path through a linked directory leads to the file, also where the link goes up beyond the root."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("usr/bin/sh")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"shell"))
        archive.addfile(link("usr/bin/dash", "usr/bin/sh"))
        for name, target in (("bin", "../../usr/bin"), ("etc/alt", "/bin/dash"), ("loop", "loop")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    registry.image((gzip.compress(out.getvalue()), {}))
    assert run(url, "cat", "/etc/alt") == 0
    assert capfdbinary.readouterr().out == b"shell"
    for path, message in (("loop", b"too many symbolic links"), ("nothing", b"no such file")):
        assert run(url, "cat", path) == 1
        assert message in capfdbinary.readouterr().err


def test_a_layer_that_cannot_be_looked_into_is_named(
    registry: Registry, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refusal is one line with the layer's digest and the reason."""
    layer = tar({"a": b"x"})
    registry.image((layer, {}))
    assert run(url, "ls") == 1
    error = capsys.readouterr().err
    assert str(Digest.of(layer)) in error
    assert "not a gzip layer" in error


def test_a_ztoc_of_another_layer_is_refused(
    registry: Registry, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file under the right name with the zTOC of a layer of another size is told."""
    layer, other = gzip.compress(tar({"a": b"x"})), gzip.compress(tar({"a": BIG}))
    registry.image((layer, {}))
    with ZtocBuilder() as builder:
        builder.feed(other)
        (tmp_path / f"{Digest.of(layer).hex}.ztoc").write_bytes(encode(builder.finish()))
    assert run(url, "cat", "a", "--ztocs", str(tmp_path)) == 1
    assert "of another layer" in capsys.readouterr().err


def test_a_file_that_is_no_layer_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """index writes a whole zTOC or none, and says what is wrong."""
    file = tmp_path / "layer"
    file.write_bytes(gzip.compress(tar({"a": BIG}))[:-20])
    assert main.run(["lazy", "index", str(file), "--to", str(tmp_path)]) == 1
    assert "cut short" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]
