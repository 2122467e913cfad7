"""The bar chart of bench.loading.peers: a group a stage, a bar a peer, the spread as a line."""

from __future__ import annotations

import statistics
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, LEFT, RIGHT, BAR, GAP = 1000, 250, 170, 20, 6
OURS, THEIRS, INK, PALE, PAPER = "#d64541", "#8fa3b5", "#222222", "#777777", "#fafaf8"
TITLES = {
    "decode": "decode only (the bound)",
    "two views": "two 224-pixel views, uint8",
    "full v2": "JPEG to two augmented float views (MoCo v2)",
    "augmentation alone": "augmentation alone, from uint8 views",
}


def bar_length(value: float, most: float) -> int:
    """Pixels of a bar, of the group's longest."""
    return max(1, round((WIDTH - LEFT - RIGHT) * value / most))


def draw(found: dict[str, dict[str, list[float]]], out: Path, foot: str) -> None:
    """Draw rates [stage][peer][round] in images/s into a PNG."""
    stages = [stage for stage in TITLES if stage in found]
    height = 24 + sum(40 + len(found[s]) * (BAR + GAP) + 14 for s in stages) + 40
    sheet = Image.new("RGB", (WIDTH, height), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    title, small = ImageFont.load_default(17), ImageFont.load_default(12)
    y = 20
    for stage in stages:
        pen.text((20, y), TITLES[stage], INK, title)
        pen.text((WIDTH - 20, y + 2), "images/s", PALE, font, anchor="ra")
        y += 30
        middle = {name: statistics.median(rates) for name, rates in found[stage].items()}
        most = max(max(rates) for rates in found[stage].values())
        ours = next((v for n, v in middle.items() if n.startswith("fastmoco")), None)
        for name in sorted(middle, key=lambda n: -middle[n]):
            mine = name.startswith("fastmoco")
            end = LEFT + bar_length(middle[name], most)
            pen.text((LEFT - 10, y + BAR // 2), name, INK, font, anchor="rm")
            pen.rectangle((LEFT, y, end, y + BAR), OURS if mine else THEIRS)
            low, high = (LEFT + bar_length(f(found[stage][name]), most) for f in (min, max))
            pen.line((low, y + BAR // 2, high, y + BAR // 2), INK, 1)
            for x in (low, high):
                pen.line((x, y + BAR // 2 - 4, x, y + BAR // 2 + 4), INK, 1)
            text = f"{middle[name]:,.0f}"
            if ours and not mine:
                text += f"   ours {ours / middle[name]:.1f} x"
            pen.text((max(end, high) + 10, y + BAR // 2), text, INK, font, anchor="lm")
            y += BAR + GAP
        y += 24
    pen.text((20, height - 28), foot, PALE, small)
    partial = out.with_name(out.stem + ".partial.png")
    sheet.save(partial)
    partial.replace(out)
