"""Bars side by side as SVG: what a few numbers need, and no library more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, PANEL, MARGIN = 760, 300, 64
COLOURS = ("#3b6fb6", "#7fb069", "#d98841", "#8c8c8c")
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
TICKS = 5
FONT = 'font-family="sans-serif" font-size="12"'


def panels(
    title: str, groups: Sequence[str], series: Sequence[tuple[str, Mapping[str, Sequence[float]]]]
) -> str:
    """Panels one below the other, each with bars of each name in each group.

    Args:
        title: for those who cannot see it.
        groups: what stands below each group of bars.
        series: of each panel, its heading, and by the names of the bars their heights.
    """
    names = list(series[0][1])
    height = len(series) * PANEL + 40
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" '
        f'viewBox="0 0 {WIDTH} {height}" {FONT}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for number, (heading, values) in enumerate(series):
        parts += _panel(number * PANEL, heading, groups, values)
    for number, name in enumerate(names):
        x = MARGIN + number * (WIDTH - 2 * MARGIN) // len(names)
        y = height - 24
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{COLOURS[number]}"/>')
        parts.append(f'<text x="{x + 18}" y="{y + 11}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    top: int, heading: str, groups: Sequence[str], values: Mapping[str, Sequence[float]]
) -> list[str]:
    floor, high = top + PANEL - 40, PANEL - 90
    step = tick(max(each for one in values.values() for each in one))
    most = step * TICKS
    parts = [f'<text x="{MARGIN}" y="{top + 28}" font-weight="bold">{escape(heading)}</text>']
    for number in range(TICKS + 1):
        y = floor - number * high / TICKS
        parts.append(
            f'<line x1="{MARGIN}" x2="{WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
        )
        parts.append(
            f'<text x="{MARGIN - 8}" y="{y + 4:.1f}" text-anchor="end">{number * step:g}</text>'
        )
    room = (WIDTH - 20 - MARGIN) / len(groups)
    wide = room / (len(values) + 1)
    for at, group in enumerate(groups):
        left = MARGIN + at * room + wide / 2
        middle = MARGIN + (at + 0.5) * room
        parts.append(
            f'<text x="{middle:.1f}" y="{floor + 18}" text-anchor="middle">{escape(group)}</text>'
        )
        for number, heights in enumerate(values.values()):
            tall = heights[at] / most * high
            x = left + number * wide
            parts.append(
                f'<rect x="{x:.1f}" y="{floor - tall:.1f}" width="{wide * 0.9:.1f}" '
                f'height="{tall:.1f}" fill="{COLOURS[number]}"/>'
            )
            parts.append(
                f'<text x="{x + wide * 0.45:.1f}" y="{floor - tall - 4:.1f}" text-anchor="middle" '
                f'font-size="10">{heights[at]:.0f}</text>'
            )
    return parts


def tick(most: float) -> float:
    """A round number of which ``TICKS`` are no less than ``most``."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most / TICKS))
    return next(step * power for step in STEPS if step * power * TICKS >= most)
