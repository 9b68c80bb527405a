"""A bar chart as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

__all__ = ["bars"]

_WIDTH, _LABEL, _ROW = 720, 220, 22
_COLOURS = {"cdir": "#1f6feb", "raw": "#8b949e"}


def bars(title: str, values: Mapping[str, float]) -> str:
    """One bar for each value, of 1 and more, on a logarithmic scale that begins at 1."""
    longest = math.log10(max(10.0, *values.values()))
    height = _ROW * (len(values) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif"'
        ' font-size="12">',
        f'<text x="4" y="16" font-weight="bold">{escape(title)} (logarithmic)</text>',
    ]
    for number, (name, value) in enumerate(values.items(), start=1):
        colour = next((found for start, found in _COLOURS.items() if name.startswith(start)), "#d29922")
        length = max(1.0, math.log10(max(value, 1.0)) / longest * (_WIDTH - _LABEL - 60))
        middle = _ROW * number + 18
        parts += [
            f'<text x="4" y="{middle}">{escape(name)}</text>',
            f'<rect x="{_LABEL}" y="{middle - 12}" width="{length:.0f}" height="15" fill="{colour}"/>',
            f'<text x="{_LABEL + length + 6:.0f}" y="{middle}">{value:.2f}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
