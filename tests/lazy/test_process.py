"""A real worker process, and what is believed of it."""

import gzip
import hashlib
import stat
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from registry_proxy.errors import UpstreamBroken
from registry_proxy.lazy.failures import LayerRefused, WorkerDied
from registry_proxy.lazy.files import regular_file
from registry_proxy.lazy.layers import own_index
from registry_proxy.lazy.terms import Kind
from registry_proxy.lazy.work.process import Order, Product, make
from registry_proxy.oci.digest import Digest
from tests.lazy import hard
from tests.lazy.layers import tar

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER = gzip.compress(tar({"etc/os-release": b"ID=lazy\n", "usr/lib/big": bytes(100_000)}))


class Sent:
    """A layer's bytes, and how often they were asked for."""

    def __init__(self, data: bytes, error: Exception | None = None) -> None:
        self.data = data
        self.error = error
        self.times = 0

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        self.times += 1
        for start in range(0, len(self.data), 4096):
            yield self.data[start : start + 4096]
        if self.error is not None:
            raise self.error


async def made(kind: Kind, sent: Sent, out: Path, promised: bytes | None = None) -> Product:
    """What becomes of a layer. ``promised``: what has the digest that was ordered, if that is not what is sent."""
    layer = sent.data if promised is None else promised
    order = Order(kind, str(Digest.of(layer)), len(layer), GZIP, 4 << 20, str(out))
    return await make(order, sent, lambda _taken: None)


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("sent", [gzip.compress(tar({"evil": b"x" * 100_000})), b"no gzip at all" * 1000])
async def test_other_bytes_make_nothing(kind: Kind, sent: bytes, tmp_path: Path) -> None:
    """What is made comes of bytes that hash to the layer's digest: others are the upstream's fault, sound or not."""
    promised = hashlib.shake_128(b"the layer").digest(len(sent))
    with pytest.raises(UpstreamBroken, match="is not"):
        await made(kind, Sent(sent), tmp_path / "out", promised)


@pytest.mark.parametrize("kind", Kind)
async def test_a_layer_of_which_nothing_can_be_made(kind: Kind, tmp_path: Path) -> None:
    """The right bytes, of which nothing can be made, are refused: that is worth remembering."""
    with pytest.raises(LayerRefused):
        await made(kind, Sent(LAYER[:-100]), tmp_path / "out")


async def test_a_layer_that_has_to_be_read_twice(tmp_path: Path) -> None:
    """Where a name comes again the layer is sent once more, and the copy has the last of the two."""
    sent, out = Sent(gzip.compress(hard.twice())), tmp_path / "out"
    product = await made(Kind.ESTARGZ, sent, out)
    assert sent.times == 2
    copy = out.read_bytes()
    assert (product.size, product.digest) == (len(copy), str(Digest.of(copy)))
    index = own_index(len(copy), {}, lambda span: copy[span.start : span.stop])
    assert index is not None
    for path, data in hard.TWICE.items():
        pieces = index.content(regular_file(index, path), lambda span: copy[span.start : span.stop])
        assert b"".join(pieces) == data


async def test_trouble_with_the_layer_is_told_as_it_is(tmp_path: Path) -> None:
    """What reading the layer raises ends the worker, and is what the caller gets."""
    trouble = UpstreamBroken("the line went dead")
    with pytest.raises(UpstreamBroken, match="the line went dead"):
        await made(Kind.SOCI, Sent(LAYER[: len(LAYER) // 2], trouble), tmp_path / "out", LAYER)


async def test_a_worker_that_dies_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends without a word on its standard output is no product and no refusal."""
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho first >&2\nsleep 0.1\necho out of memory >&2\nexit 137\n", encoding="ascii")
    dying.chmod(dying.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(dying))
    with pytest.raises(WorkerDied, match="without a word: out of memory"):
        await made(Kind.SOCI, Sent(LAYER), tmp_path / "out")
