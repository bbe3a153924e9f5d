"""Grafts: what ``cvmfs_server publish`` takes instead of a file's bytes (CernVM-FS documentation, "Grafting Files").

Beside an empty file ``NAME`` lies ``.cvmfsgraft-NAME``, which says how large the file is and what its bytes hash to. Whoever reads
the published file gets the bytes from the repository's external data server, under the same path, and CVMFS checks them.
"""

import hashlib
from typing import Final, Literal

Algorithm = Literal["sha1", "shake128"]

_SHAKE_BYTES: Final = 20
"""CVMFS cuts SHAKE-128 to 160 bits, the length of its other hashes."""


def marker(name: str) -> str:
    """The name of the graft beside a file."""
    return f".cvmfsgraft-{name}"


def graft(data: bytes | memoryview, algorithm: Algorithm) -> bytes:
    """The graft of a file with these bytes, unchunked and not compressed."""
    lines = (f"size={len(data)}", f"checksum={checksum(data, algorithm)}", "compression=none", "")
    return "\n".join(lines).encode()


def checksum(data: bytes | memoryview, algorithm: Algorithm) -> str:
    """A content hash as CVMFS writes it: SHA-1 has no suffix."""
    if algorithm == "sha1":
        return hashlib.sha1(data, usedforsecurity=False).hexdigest()
    return f"{hashlib.shake_128(data, usedforsecurity=False).hexdigest(_SHAKE_BYTES)}-shake128"
