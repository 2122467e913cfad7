"""Parts that every drawn sheet shares (the contact sheet, views, neighbours): the check of the
file's name, tiles, colours and names of classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from PIL import Image

from data_tools.errors import UserError
from data_tools.store import Store

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
INK, PAPER = (40, 40, 40), (250, 250, 248)  # RGB of text and ground


def class_name(store: Store, i: int) -> str:
    """The name of a sample's class, "class 7" if it has no name, empty without a label."""
    label = int(store.labels[i])
    if label < 0:
        return ""
    return store.classes[label] if label < len(store.classes) else f"class {label}"


class Placed(NamedTuple):
    """The position of an image on a sheet, and its size there over its own."""

    x: int
    y: int
    scale: float


def check_picture(path: Path, flag: str = "") -> None:
    """Raise UserError if no sheet can be saved under this name; called before the long work.

    flag: the flag that gave the path, for the message.
    """
    named = f"{flag} {path}".strip()
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{named}: name a .png, .jpg or .webp file")
    if path.is_dir():
        raise UserError(f"{named}: is a folder; give a file")
    if not path.parent.is_dir():
        raise UserError(f"{named}: no such folder; give a file in a folder that exists")


def place(sheet: Image.Image, image: Image.Image, left: int, top: int, tile: int) -> Placed:
    """Draw a whole image in the middle of a square tile at (left, top)."""
    scale = tile / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    # Enlarged pixels stay sharp, so that a small image is seen as it is.
    filter_ = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    x, y = left + (tile - width) // 2, top + (tile - height) // 2
    sheet.paste(image.resize((width, height), filter_), (x, y))
    return Placed(x, y, scale)
