"""Draws curves as an SVG file: the share of requests that had their first token within a time."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

WIDTH: Final = 760
HEIGHT: Final = 420
LEFT: Final = 60
TOP: Final = 40
POINTS: Final = 200
_COLOURS: Final = ("#0b6e4f", "#c1121f", "#1d4e89", "#b5651d")


def draw_curves(first_token_ms: Mapping[str, Sequence[float]], limit_s: float) -> str:
    """One curve for each name, over a logarithmic axis of seconds; the limit is a dashed line."""
    ordered = {name: sorted(values) for name, values in first_token_ms.items()}
    low = max(0.01, min(values[0] for values in ordered.values()) / 1000.0)
    high = max(low * 10, max(values[-1] for values in ordered.values()) / 1000.0, limit_s)
    span = math.log(high / low)
    right, bottom = WIDTH - 20, HEIGHT - 50

    def x(seconds: float) -> float:
        return LEFT + (right - LEFT) * math.log(max(low, seconds) / low) / span

    def y(share: float) -> float:
        return bottom - (bottom - TOP) * share

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-size="15">Share of requests with their first token within so many seconds</text>',
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(
            f'<line x1="{LEFT}" x2="{right}" y1="{y(share):.1f}" y2="{y(share):.1f}" stroke="#ddd"/>'
            f'<text x="{LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>'
        )
    power = math.floor(math.log10(low))
    while 10.0**power <= high:
        if 10.0**power >= low:
            at = x(10.0**power)
            parts.append(
                f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}" stroke="#eee"/>'
                f'<text x="{at:.1f}" y="{bottom + 20}" text-anchor="middle">{10.0**power:g} s</text>'
            )
        power += 1
    parts.append(
        f'<line x1="{x(limit_s):.1f}" x2="{x(limit_s):.1f}" y1="{TOP}" y2="{bottom}" stroke="#555" stroke-dasharray="4 4"/>'
    )
    for at, (name, values) in enumerate(ordered.items()):
        colour = _COLOURS[at % len(_COLOURS)]
        marks = [min(len(values) - 1, round(n * (len(values) - 1) / POINTS)) for n in range(POINTS + 1)]
        points = " ".join(
            f"{x(values[mark] / 1000.0):.1f},{y((mark + 1) / len(values)):.1f}" for mark in marks
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<rect x="{LEFT + 12}" y="{TOP + 8 + 20 * at}" width="14" height="4" fill="{colour}"/>'
            f'<text x="{LEFT + 32}" y="{TOP + 15 + 20 * at}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])
