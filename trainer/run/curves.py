"""Curves as SVG text, without a library: for pages that are looked at without tools."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 520, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 28  # margins, for the numbers
POINTS = 300  # of a curve at most; more are averaged
COLOURS = ("#2a78d6", "#d9480f", "#2f9e44", "#9c36b5", "#c2255c", "#0c8599", "#e67700", "#5c5f66")


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    label: str
    points: Sequence[tuple[float, float]]
    """x ascending"""
    colour: str
    dashed: bool = False


def thinned(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """The means of so many equal pieces at most; points that are no numbers are left out."""
    whole = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = math.ceil(len(whole) / most) or 1
    pieces = (whole[start : start + size] for start in range(0, len(whole), size))
    return [(sum(x for x, _ in piece) / len(piece), sum(y for _, y in piece) / len(piece)) for piece in pieces]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two, about so many."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A number in at most five digits."""
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e5 else f"{value:.3g}"


def chart(title: str, curves: Sequence[Curve], across: str = "step") -> str:
    """A figure with its title and legend; nothing where no curve has a point. across: what x counts."""
    drawn = [(curve, thinned(curve.points)) for curve in curves]
    drawn = [(curve, points) for curve, points in drawn if points]
    if not drawn:
        return ""
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points]
    x_range, y_range = _padded(min(xs), max(xs), 0.0), _padded(min(ys), max(ys), 0.06)

    def place(x: float, y: float) -> str:
        across = LEFT + (x - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - y_range[0]) / (y_range[1] - y_range[0]) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"

    parts = []
    for y in ticks(*y_range):
        left, right = place(x_range[0], y), place(x_range[1], y)
        parts.append(f'<polyline class="grid" points="{left} {right}"/>')
        down = float(left.partition(",")[2])
        parts.append(f'<text x="{LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{number(y)}</text>')
    for x in ticks(*x_range):
        at = place(x, y_range[0]).partition(",")[0]
        parts.append(f'<text x="{at}" y="{HEIGHT - 8}" text-anchor="middle">{number(x)}</text>')
    for curve, points in drawn:
        dash = ' stroke-dasharray="5 4"' if curve.dashed else ""
        line = " ".join(place(x, y) for x, y in points)
        last = f"{html.escape(curve.label)}: {number(points[-1][1])} at {across} {number(points[-1][0])}"
        parts.append(
            f'<polyline class="curve" stroke="{curve.colour}"{dash} points="{line}"><title>{last}</title></polyline>'
        )
        for x, y in points if len(points) <= 30 else ():
            at_x, at_y = place(x, y).split(",")
            told = f"{html.escape(curve.label)}, {across} {number(x)}: {number(y)}"
            parts.append(
                f'<circle cx="{at_x}" cy="{at_y}" r="2.5" fill="{curve.colour}"><title>{told}</title></circle>'
            )
    legend = "".join(
        f'<span><i style="background:{curve.colour}"></i>{html.escape(curve.label)} {number(points[-1][1])}</span>'
        for curve, points in drawn
    )
    head = f"<figcaption><b>{html.escape(title)}</b> by {html.escape(across)} {legend}</figcaption>"
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
    return f"<figure>{head}{picture}</figure>"


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    """A range that is wider by a share of itself at both ends, and never empty."""
    room = (high - low) * share if high > low else abs(low) * 0.1 or 1.0
    return low - room, high + room
