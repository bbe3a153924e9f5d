"""The farther end of a worker process: makes one thing of one layer and ends (``process`` says what is spoken).

It runs at the lowest priority of processor and memory that there is, reads what it is sent and writes one file, nothing else.
"""

import contextlib
import os
import resource
import sys
import time
from pathlib import Path
from typing import BinaryIO, Final, cast

import msgspec

from registry_proxy.lazy.convert.layer import convert_layer
from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.terms import Kind
from registry_proxy.lazy.work.process import Order, Product, Report
from registry_proxy.lazy.ztoc.builder import ZtocBuilder
from registry_proxy.lazy.ztoc.ztoc import encode
from registry_proxy.oci.digest import Digest

_BLOCK: Final = 1 << 18
_MEMORY: Final = 6 << 30
"""Bytes of address space: what the bounds of the builders allow several times over."""

_EVERY: Final = 0.2
"""Seconds between two reports of progress."""


_GROUP: Final = Path("/proc/self/autogroup")
"""The kernel shares processors among sessions first, and nice counts within one only: ours, which is this process (sched(7))."""


class OtherBytes(Exception):
    """What was sent is not the layer of this digest."""


class Pipe:
    """The layer as it comes, hashed as it passes: a file that can be read, and read again from its start."""

    def __init__(self, source: BinaryIO, order: Order) -> None:
        self._source = source
        self._size = order.size
        self._digest = Digest.parse(order.digest)
        self._hasher = self._digest.hasher()
        self._taken = 0
        self._told = 0.0

    def read(self, size: int = -1) -> bytes:
        """The next bytes, none at the layer's end."""
        left = self._size - self._taken
        block = self._source.read(min(left, size if size >= 0 else left))
        if not block and left:
            raise OtherBytes("the layer broke off")
        self._hasher.update(block)
        self._taken += len(block)
        if time.monotonic() > self._told + _EVERY:
            self._told = time.monotonic()
            _say(Report(taken=self._taken))
        return block

    def seek(self, position: int) -> int:
        """Back to the start, which is the only place that there is; raises OtherBytes."""
        if position:
            raise ValueError("a layer is read from its start")
        self.check()
        _say(Report(again=True))
        self._hasher, self._taken = self._digest.hasher(), 0
        return 0

    def check(self) -> None:
        """Read what is left; raises OtherBytes if the layer is not the one of the digest."""
        while self.read(_BLOCK):
            pass
        if self._hasher.hexdigest() != self._digest.hex:
            raise OtherBytes(f"the layer that came is not {self._digest}")


def main() -> None:
    """Do one job."""
    _step_back()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    pipe = Pipe(sys.stdin.buffer, order)
    try:
        product = _ztoc(pipe, order) if order.kind is Kind.SOCI else _estargz(pipe, order)
        pipe.check()
        report = Report(product=product)
    except LayerRefused as error:
        report = _judged(pipe, str(error))
    except OtherBytes as error:
        report = Report(wrong=str(error))
    _say(Report(taken=order.size))
    _say(report)


def _step_back() -> None:
    """Let everybody else have the processors first: what wakes up takes them from us at once, and we get what is left."""
    os.nice(19)
    with contextlib.suppress(OSError):  # where system calls are filtered
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):  # a kernel without such groups
        _GROUP.write_text("19", encoding="ascii")


def _judged(pipe: Pipe, refusal: str) -> Report:
    """A refusal counts only of the right bytes."""
    try:
        pipe.check()
    except OtherBytes as error:
        return Report(wrong=str(error))
    return Report(refused=refusal)


def _ztoc(pipe: Pipe, order: Order) -> Product:
    with ZtocBuilder(order.span_size) as builder:
        while block := pipe.read(_BLOCK):
            builder.feed(block)
        made = encode(builder.finish())
    Path(order.out).write_bytes(made)
    return Product(str(Digest.of(made)), len(made))


def _estargz(pipe: Pipe, order: Order) -> Product:
    made = convert_layer(cast("BinaryIO", pipe), order.media_type, Path(order.out))
    details: dict[str, str | int] = {
        "diff_id": str(made.diff_id),
        "toc_digest": str(made.toc_digest),
        "uncompressed_size": made.uncompressed_size,
        "files": made.files,
    }
    return Product(str(made.digest), made.size, details)


def _say(report: Report) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
