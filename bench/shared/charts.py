"""Line charts and bar charts as PNG files, drawn with Pillow."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from data_tools.files import replacing

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1000, 420, 80, 250, 50, 60
COLOURS = ("#d64541", "#3b6ea5", "#3f9b62", "#b8862b", "#7d5ba6", "#777777")
INK, PALE, GRID, PAPER = "#222222", "#777777", "#e2e2de", "#fafaf8"
BAR_LEFT, BAR_RIGHT, BAR, GAP = 250, 170, 20, 6
OURS, THEIRS = "#d64541", "#8fa3b5"


@dataclass(frozen=True)
class Curve:
    """A line through points (x, y), each with the least and most y measured there."""

    name: str
    points: list[tuple[float, float, float, float]]
    """(x, y, least, most), sorted by x."""
    joined: bool = True
    """Whether a line joins the points. False if x is a name, with nothing in between."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes; y is a share and is labelled in percent."""

    title: str
    x: str
    curves: list[Curve]
    ticks: list[tuple[float, str]] = field(default_factory=list)
    """(x, label) of each tick on the x axis. Empty: about five round numbers."""
    log: bool = False
    """Whether the x axis is logarithmic."""
    goal: float | None = None
    """A y to mark with a horizontal line."""


def draw_curves(panels: list[Panel], out: Path, foot: str) -> None:
    """Draw the panels below each other into a PNG, with a line of small print at the foot."""
    sheet = Image.new("RGB", (WIDTH, HEIGHT * len(panels) + 40), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, panel in enumerate(panels):
        _panel(pen, panel, i * HEIGHT)
    _save(sheet, foot, out)


def draw_bars(groups: dict[str, dict[str, list[float]]], out: Path, foot: str) -> None:
    """Draw images/s as a PNG: a group per title, a bar per name, its length the median of the
    rounds, with a line from the least to the most. Bars of fastmoco have their own colour."""
    height = 24 + sum(54 + len(group) * (BAR + GAP) for group in groups.values()) + 40
    sheet = Image.new("RGB", (WIDTH, height), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    y = 20
    for title, group in groups.items():
        pen.text((20, y), title, INK, ImageFont.load_default(17))
        pen.text((WIDTH - 20, y + 2), "images/s", PALE, font, anchor="ra")
        y += 30
        middle = {name: statistics.median(rates) for name, rates in group.items()}
        most = max(max(rates) for rates in group.values())
        ours = next((v for n, v in middle.items() if n.startswith("fastmoco")), None)
        for name in sorted(middle, key=lambda n: -middle[n]):
            mine = name.startswith("fastmoco")
            end, low, high = (
                BAR_LEFT + _bar_length(v, most)
                for v in (middle[name], min(group[name]), max(group[name]))
            )
            pen.text((BAR_LEFT - 10, y + BAR // 2), name, INK, font, anchor="rm")
            pen.rectangle((BAR_LEFT, y, end, y + BAR), OURS if mine else THEIRS)
            pen.line((low, y + BAR // 2, high, y + BAR // 2), INK, 1)
            for x in (low, high):
                pen.line((x, y + BAR // 2 - 4, x, y + BAR // 2 + 4), INK, 1)
            text = f"{middle[name]:,.0f}"
            if ours and not mine:
                text += f"   ours {ours / middle[name]:.1f} x"
            pen.text((max(end, high) + 10, y + BAR // 2), text, INK, font, anchor="lm")
            y += BAR + GAP
        y += 24
    _save(sheet, foot, out)


def _bar_length(value: float, most: float) -> int:
    """Return a bar's pixels; the group's greatest value fills the room."""
    return max(1, round((WIDTH - BAR_LEFT - BAR_RIGHT) * value / most))


def _save(sheet: Image.Image, foot: str, out: Path) -> None:
    pen = ImageDraw.Draw(sheet)
    pen.text((20, sheet.height - 28), foot, PALE, ImageFont.load_default(12))
    with replacing(out) as partial:
        sheet.save(partial)


def _panel(pen: ImageDraw.ImageDraw, panel: Panel, top: int) -> None:
    font, title = ImageFont.load_default(13), ImageFont.load_default(17)
    xs = [p[0] for c in panel.curves for p in c.points] + [x for x, _ in panel.ticks]
    ys = [y for c in panel.curves for p in c.points for y in p[1:]]
    ys += [panel.goal] if panel.goal is not None else []
    step = spacing(max(ys) - min(ys), 6)
    low, high = math.floor(min(ys) / step) * step, math.ceil(max(ys) / step + 1e-9) * step
    first, last = (math.log(x) if panel.log else x for x in (min(xs), max(xs)))
    span = (last - first) or 1.0

    def across(x: float) -> float:
        at = (math.log(x) if panel.log else x) - first
        return LEFT + 12 + at / span * (WIDTH - LEFT - RIGHT - 24)

    def down(y: float) -> float:
        return top + HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    pen.text((20, top + 14), panel.title, INK, title)
    y = low
    while y <= high + step / 2:
        pen.line((LEFT, down(y), WIDTH - RIGHT, down(y)), GRID)
        pen.text((LEFT - 8, down(y)), f"{100 * y:.3g} %", PALE, font, anchor="rm")
        y += step
    for x, text in panel.ticks or round_ticks(min(xs), max(xs)):
        pen.line((across(x), down(low), across(x), down(low) + 5), PALE)
        pen.text((across(x), down(low) + 9), text, PALE, font, anchor="ma")
    pen.text(((LEFT + WIDTH - RIGHT) / 2, down(low) + 30), panel.x, INK, font, anchor="ma")
    if panel.goal is not None:
        pen.line((LEFT, down(panel.goal), WIDTH - RIGHT, down(panel.goal)), INK)
        text = f"{100 * panel.goal:.3g} %"
        pen.text((WIDTH - RIGHT + 8, down(panel.goal)), text, INK, font, anchor="lm")
    for i, curve in enumerate(panel.curves):
        colour = COLOURS[i % len(COLOURS)]
        places = [(across(p[0]), down(p[1])) for p in curve.points]
        if len(places) > 1 and curve.joined:
            pen.line(places, colour, 2)
        for (x, y), (_, _, least, most) in zip(places, curve.points, strict=True):
            pen.line((x, down(least), x, down(most)), colour, 1)
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), colour)
        line = top + TOP + 22 * i
        pen.line((WIDTH - RIGHT + 60, line + 8, WIDTH - RIGHT + 80, line + 8), colour, 3)
        pen.text((WIDTH - RIGHT + 86, line + 8), curve.name, INK, font, anchor="lm")


def spacing(span: float, count: int) -> float:
    """Return a round step (1, 2 or 5 times a power of ten) that cuts a span into about `count`."""
    rough = max(span, 1e-6) / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)


def round_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return about five round numbers from low to high, each with its label."""
    step = spacing(high - low, 5)
    first = math.ceil(low / step)
    return [(i * step, f"{i * step:g}") for i in range(first, math.floor(high / step) + 1)]
