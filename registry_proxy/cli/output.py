"""What verbs print: JSON for programs, tables and lines for people."""

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console
from rich.table import Column, Table


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, default=str))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on standard output; what a terminal is too narrow for is folded, and a pipe gets whole lines."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    heads = [Column(column, overflow="fold") for column in columns]
    table = Table(*heads, title=title, title_justify="left", show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def waiting(text: str) -> AbstractContextManager[object]:
    """Says what is being waited for while the block runs: on standard error, if that is a terminal."""
    return Console(stderr=True).status(text) if sys.stderr.isatty() else nullcontext()


def print_outcome(image: str, done: str, seconds: float, error: str | None) -> None:
    """What became of one image: on standard output what was ``done``, on standard error why it failed."""
    if error is None:
        print(f"{image}: {done} in {seconds:.1f} s")
    else:
        print(f"{image}: failed after {seconds:.1f} s: {error}", file=sys.stderr)


def counted(number: int, noun: str) -> str:
    """``1 blob``, ``2 blobs``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def plainly(error: OSError) -> str:
    """An operating system's error for a person: the file, and what is wrong with it."""
    if error.strerror is None or error.filename is None:
        return error.strerror or str(error)
    return f"{error.filename}: {error.strerror}"
