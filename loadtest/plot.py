"""Bars as SVG text, for figures beside each other on a logarithmic scale."""

import math
from collections.abc import Mapping
from html import escape
from typing import Final

_WIDTH: Final = 720
_BAR: Final = 14
_GAP: Final = 10
_NAME: Final = 170
_COLOURS: Final = ("#2b6cb0", "#38a169", "#b7791f", "#805ad5", "#c53030", "#4a5568")


def bars(title: str, unit: str, groups: Mapping[str, Mapping[str, float]]) -> str:
    """An SVG document: per group a bar for each named value above 0; ``unit`` stands behind each value."""
    values = [value for group in groups.values() for value in group.values() if value > 0]
    low = 10 ** math.floor(math.log10(min(values, default=1)))
    high = 10 ** math.ceil(math.log10(max(values, default=10)) + 1e-9)
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    lines, y = [f'<text x="8" y="20" font-size="15">{escape(title)}</text>'], 40
    for label, group in groups.items():
        lines.append(f'<text x="8" y="{y + 12}" font-weight="bold">{escape(label)}</text>')
        y += _BAR + 4
        for name, value in group.items():
            if value <= 0:
                continue
            share = math.log10(value / low) / math.log10(high / low)
            width = max(2.0, share * (_WIDTH - _NAME - 110))
            colour = _COLOURS[names.index(name) % len(_COLOURS)]
            lines.append(f'<text x="{_NAME - 8}" y="{y + 11}" text-anchor="end">{escape(name)}</text>')
            lines.append(f'<rect x="{_NAME}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>')
            lines.append(f'<text x="{_NAME + width + 6:.1f}" y="{y + 11}">{value:,.3g} {escape(unit)}</text>')
            y += _BAR + 2
        y += _GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *lines, "</svg>", ""])
