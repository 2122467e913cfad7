"""Draws a contact sheet of a dataset: one row per class, or a plain grid if nothing is labelled."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_tools.files import replacing
from data_tools.images.prepare_image import BadImage
from data_tools.inspection.sheets import INK, PAPER, check_picture, class_name
from data_tools.inspection.survey import pixels_of
from data_tools.store import Store

# Pixels of the sheet. A row's text takes LEAST_TEXT to MOST_TEXT of its width.
MARGIN, GAP, LEAST_TEXT, MOST_TEXT = 24, 8, 110, 190
PALE, BROKEN = (120, 120, 128), (235, 225, 225)  # RGB of counts, and of an image that is broken


def contact_sheet(
    store: Store,
    out: str | os.PathLike[str],
    per_class: int = 8,
    classes: int = 12,
    tile: int = 96,
) -> int:
    """Draws thumbnails (centre crops of tile x tile pixels) into a .png, .jpg or .webp file.

    Up to `classes` classes are shown, evenly spread over all, with up to `per_class` images each,
    evenly spread too. Returns the number of images shown. Raises UserError for another suffix and
    for a folder that does not exist.
    """
    out = Path(out)
    check_picture(out)
    rows = chosen_rows(store, per_class, classes)
    title, small = ImageFont.load_default(size=15), ImageFont.load_default(size=12)
    longest = max(title.getlength(name) for name, _, _ in rows)
    text = min(MOST_TEXT, max(int(longest) + 24, LEAST_TEXT)) if longest else 0
    width = 2 * MARGIN + text + per_class * (tile + GAP) - GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + len(rows) * (tile + GAP) - GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (name, count, ids) in enumerate(rows):
        top = MARGIN + number * (tile + GAP)
        if name:
            middle = top + tile // 2
            draw.text((MARGIN, middle - 2), shortened(name, title, text - 16), INK, title, "lb")
            draw.text((MARGIN, middle + 4), f"{count:,} images", PALE, small, "lt")
        for column, i in enumerate(ids):
            left = MARGIN + text + column * (tile + GAP)
            sheet.paste(thumbnail(store, i, tile), (left, top))
    with replacing(out) as partial:
        sheet.save(partial)
    return sum(len(ids) for _, _, ids in rows)


def chosen_rows(store: Store, per_class: int, classes: int) -> list[tuple[str, int, list[int]]]:
    """The rows of a sheet: (class, its images in the dataset, ids to show) each.

    If nothing is labelled, the names are empty and the rows make one grid.
    """
    numbers = np.unique(store.labels[store.labels >= 0])
    if not len(numbers):
        ids = spread(np.arange(len(store)), per_class * classes)
        return [("", 0, ids[at : at + per_class]) for at in range(0, len(ids), per_class)]
    rows = []
    for number in spread(numbers, classes):
        members = np.flatnonzero(store.labels == number)
        name = class_name(store, int(members[0]))
        rows.append((name, len(members), spread(members, per_class)))
    return rows


def spread(values: np.ndarray, most: int) -> list[int]:
    """Up to `most` of the values, evenly spaced from the first to the last."""
    if len(values) <= most:
        return values.tolist()
    return values[np.linspace(0, len(values) - 1, most).round().astype(np.int64)].tolist()


def shortened(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> str:
    """The name, cut to `room` pixels; letters that can't be drawn become "?"."""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    if font.getlength(name) <= room:
        return name
    while name and font.getlength(name + "...") > room:
        name = name[:-1]
    return name + "..."


def thumbnail(store: Store, i: int, tile: int) -> Image.Image:
    """The centre square of an image, or a pale field with a cross if the image doesn't decode."""
    try:
        image = Image.fromarray(np.ascontiguousarray(pixels_of(store, i)))
    except (BadImage, ValueError):
        image = Image.new("RGB", (tile, tile), BROKEN)
        draw = ImageDraw.Draw(image)
        draw.line((0, 0, tile, tile), PALE)
        draw.line((0, tile, tile, 0), PALE)
        return image
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    filter_ = Image.Resampling.BICUBIC if side >= tile else Image.Resampling.NEAREST
    return image.resize((tile, tile), filter_, (left, top, left + side, top + side))
