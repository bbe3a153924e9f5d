"""The inputs that are kept, `corpus/TARGET.txt`: one a line, escaped as in a Python string, or `=` and base64 of zlib where that is shorter."""

import base64
import zlib
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent / "corpus"
LARGEST_LINE = 2_000
LARGEST = 18_000
"""Characters of a line and of a file: what is longer is not kept."""


def read(target: str) -> list[bytes]:
    """The inputs of a target; none if there is no file."""
    file = HERE / f"{target}.txt"
    return [decode(line) for line in file.read_text("ascii").splitlines()] if file.exists() else []


def write(target: str, inputs: Iterable[bytes]) -> None:
    """Keeps these, the shortest first, as far as there is room; those that are kept already stay in any case."""
    kept = dict.fromkeys(read(target))
    lines = [encode(data) for data in kept]
    room = LARGEST - sum(len(line) + 1 for line in lines)
    for line in sorted((encode(data) for data in inputs if data not in kept), key=lambda line: (len(line), line)):
        room -= len(line) + 1
        if room < 0 or len(line) > LARGEST_LINE:
            break
        lines.append(line)
    HERE.mkdir(exist_ok=True)
    (HERE / f"{target}.txt").write_text("".join(f"{line}\n" for line in dict.fromkeys(lines)), encoding="ascii")


def encode(data: bytes) -> str:
    """One line."""
    escaped = data.decode("latin-1").encode("unicode_escape").decode()
    packed = "=" + base64.b64encode(zlib.compress(data, 9)).decode()
    return packed if len(packed) < len(escaped) else escaped.replace("=", "\\x3d", 1) if escaped[:1] == "=" else escaped


def decode(line: str) -> bytes:
    """The input that a line stands for."""
    if line.startswith("="):
        return zlib.decompress(base64.b64decode(line[1:]))
    return line.encode().decode("unicode_escape").encode("latin-1")
