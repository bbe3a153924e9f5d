"""What verbs print: JSON for programs, tables for people."""

import json
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, default=str))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on standard output; text that a pipe gets is not cut to a terminal's width."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    table = Table(*columns, title=title, title_justify="left", show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)
