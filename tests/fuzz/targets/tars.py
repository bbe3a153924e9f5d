"""Tars, by the scanner that makes zTOCs and by the reader that makes eStargz. Sums of headers are put right, or nothing would be reached."""

from itertools import islice

from registry_proxy.lazy.convert.tar import TarReader
from registry_proxy.lazy.failures import LayerRefused
from registry_proxy.lazy.ztoc.bounds import Bounds
from registry_proxy.lazy.ztoc.header import BLOCK, Entry
from registry_proxy.lazy.ztoc.tar import TarScanner

BOUNDS = Bounds(layer=1 << 24)
MOST_PIECES = 32


def run(data: bytes) -> None:
    """Both read or refuse; the scanner says the same however its bytes are cut."""
    tar = summed(data)
    assert _scanned(tar, len(tar) or 1) == _scanned(tar, 499)
    reader = TarReader(iter([tar[at : at + 700] for at in range(0, len(tar), 700)]), BOUNDS)
    try:
        while item := reader.next():
            assert len(item.blocks) % BLOCK == 0
            for piece in islice(reader.content(), MOST_PIECES):
                assert len(piece) <= 1 << 20
    except LayerRefused:
        pass


def _scanned(tar: bytes, step: int) -> tuple[list[Entry], bool]:
    found: list[Entry] = []
    scanner = TarScanner(BOUNDS.layer, found.append)
    try:
        for at in range(0, len(tar), step):
            scanner.feed(tar[at : at + step])
        scanner.finish()
    except LayerRefused:
        return found, False
    return found, True


def summed(data: bytes) -> bytes:
    """The same with a right sum in every block that begins like a header: with something, and a sum field that is not empty."""
    tar = bytearray(data)
    for at in range(0, len(tar) - BLOCK + 1, BLOCK):
        if tar[at] and tar[at + 148 : at + 156].strip(b"\0"):
            tar[at + 148 : at + 156] = b" " * 8
            tar[at + 148 : at + 156] = b"%06o\0 " % sum(tar[at : at + BLOCK])
    return bytes(tar)
