"""Charts as inline SVG in the colours of the page; hovering over a point shows its values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH, HEIGHT = 360, 200  # units of the drawing; small, so that text is readable on a phone
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 30
MOST_POINTS, MOST_HOVERS = 400, 80

Point = tuple[float, float]
Format = Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    points: Sequence[Point]


def line_chart(
    title: str,
    series: Iterable[Series],
    x_name: str,
    y_format: Format,
    level: tuple[str, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """Draw a <figure> with lines over x, without the points that are not finite.

    `level`: name and value of a dashed line. The y axis goes from round number to round number
    around the values, or around `y_range`.
    """
    lines = [
        Series(s.name, [p for p in s.points if math.isfinite(p[0]) and math.isfinite(p[1])])
        for s in series
    ]
    xs = [x for s in lines for x, _ in s.points] or [0.0]
    ys = [y for s in lines for _, y in s.points] or [0.0]
    ys += [] if level is None else [level[1]]
    x_ticks = ticks(min(0.0, min(xs)), max(xs), 5)
    y_ticks = ticks(*(y_range or (min(ys), max(ys))), 4)
    x_of = scale((x_ticks[0], max(max(xs), x_ticks[0] + 1e-9)), (LEFT, WIDTH - RIGHT))
    y_of = scale((y_ticks[0], y_ticks[-1]), (HEIGHT - BOTTOM, TOP))
    parts = [*axes(x_ticks, y_ticks, x_of, y_of, x_name, y_format)]
    if level is not None:
        name, value = level
        y = y_of(value)
        above = y - 4 if y > TOP + 14 else y + 12
        parts.append(
            f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="note" x="{WIDTH - RIGHT}" y="{above:.1f}" text-anchor="end">'
            f"{escape(name)} {escape(y_format(value))}</text>"
        )
    for number, s in enumerate(lines):
        parts.append(one_line(s, number, x_of, y_of, x_name, y_format, len(s.points) <= 40))
    last = ", ".join(
        f"{s.name} {y_format(s.points[-1][1])} at {x_name} {x_text(s.points[-1][0])}"
        for s in lines if s.points
    )
    legend = "" if len(lines) < 2 else "".join(
        key(f"c{i}", s.name) for i, s in enumerate(lines)
    )
    return figure(title, f"{title}. Last: {last}" if last else title, parts, legend)


def figure(
    title: str, described: str, parts: Iterable[str], legend: str = "",
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Markup:
    """Put an SVG into a <figure>, with its title, legend, and a description for screen readers."""
    keys = f'<span class="legend">{legend}</span>' if legend else ""
    return Markup(
        f"<figure><figcaption>{escape(title)}{keys}</figcaption>"
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(described)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def key(css: str, name: str) -> Markup:
    """An entry of a legend: a square in the colour of a class of the stylesheet, and its name."""
    return Markup(f'<span><i class="key {css}"></i>{escape(name)}</span>')


def axes(
    x_ticks: list[float], y_ticks: list[float], x_of: Callable[[float], float],
    y_of: Callable[[float], float], x_name: str, y_format: Format,
) -> Iterable[str]:
    """Yield horizontal grid lines, the numbers of both axes and the name of x."""
    for value in y_ticks:
        y = y_of(value)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield (
            f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">'
            f"{escape(y_format(value))}</text>"
        )
    for value in x_ticks:
        x = x_of(value)
        if x <= WIDTH - RIGHT + 0.5:
            yield (
                f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">'
                f"{x_text(value)}</text>"
            )
    yield (
        f'<text class="note" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 3}" '
        f'text-anchor="middle">{escape(x_name)}</text>'
    )


def one_line(
    s: Series, number: int, x_of: Callable[[float], float], y_of: Callable[[float], float],
    x_name: str, y_format: Format, dots: bool,
) -> str:
    """Draw a line, dots if `dots`, and the values that appear when hovering over a point."""
    path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in thinned(s.points, MOST_POINTS))
    shown = f'<polyline class="line c{number}" points="{path}"/>' if len(s.points) > 1 else ""
    radius = 2.5 if dots or len(s.points) == 1 else 0
    for x, y in thinned(s.points, MOST_HOVERS):
        at = f'cx="{x_of(x):.1f}" cy="{y_of(y):.1f}"'
        text = f"{s.name} {y_format(y)}, {x_name} {x_text(x)}"
        if radius:
            shown += f'<circle class="dot c{number}" {at} r="{radius}"/>'
        shown += f'<circle class="hover" {at} r="7"><title>{escape(text)}</title></circle>'
    return shown


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Return at most `most` of the points, evenly spread, among them the first and the last."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def scale(source: tuple[float, float], target: tuple[float, float]) -> Callable[[float], float]:
    """Return the linear function that maps the ends of `source` to those of `target`."""
    (a, b), (c, d) = source, target
    return lambda value: c + (value - a) / ((b - a) or 1.0) * (d - c)


def ticks(least: float, most: float, count: int) -> list[float]:
    """Return about `count` round numbers in equal steps.

    The first is at or below `least`, the last at or above `most`.
    """
    if most - least < 1e-12 * max(1.0, abs(most)):
        pad = abs(most) * 0.1 or 1.0
        least, most = least - pad, most + pad
    raw = (most - least) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def x_text(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def scatter(
    title: str, described: str, points: Iterable[tuple[float, float, str, str]], legend: str
) -> Markup:
    """Draw a <figure> of points: (x, y, class of the stylesheet, text that hovering shows)."""
    rows = list(points)
    side, edge = 560, 12
    xs, ys = [r[0] for r in rows], [r[1] for r in rows]
    # One scale for both axes, because distances matter.
    span = max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0
    middle = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    factor = (side - 2 * edge) / span
    # The drawing is cropped to its points.
    high = (max(ys) - min(ys)) * factor + 2 * edge
    wide = (max(xs) - min(xs)) * factor + 2 * edge
    parts = [
        f'<circle class="spot {css}" cx="{wide / 2 + (x - middle[0]) * factor:.1f}" '
        f'cy="{high / 2 - (y - middle[1]) * factor:.1f}" r="4"><title>{escape(text)}</title>'
        f"</circle>"
        for x, y, css, text in rows
    ]
    return figure(title, described, parts, legend, (max(1, round(wide)), max(1, round(high))))
