"""Figures as a Markdown table, each beside its target. Pure."""

import statistics
from collections.abc import Iterable, Sequence


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the columns are as wide as their widest cell, so that it also reads well as text."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def verdict(value: float | None, of: float | None, factor: float) -> str:
    """``value`` as a multiple of ``of``, which should be at most ``factor``: ``0.86 ≤ 0.90 ok``; a dash where one is missing."""
    if value is None or not of:
        return f"- ≤ {factor:.2f}"
    ratio = value / of
    return f"{ratio:.2f} ≤ {factor:.2f} ok" if ratio <= factor else f"{ratio:.2f} > {factor:.2f} MISSED"


def megabytes(count: float | None) -> str:
    """Bytes in units of a million; two places below one."""
    if count is None:
        return "-"
    return f"{count / 1e6:.0f}" if count >= 10e6 else f"{count / 1e6:.2f}"


def seconds(value: float | None) -> str:
    """Seconds with one place."""
    return "-" if value is None else f"{value:.1f}"


def median(values: Iterable[float]) -> float | None:
    """The median, or None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None
