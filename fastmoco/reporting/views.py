"""Draws a contact sheet of training views: each source with its two windows, then q and k."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data_tools.errors import UserError
from data_tools.files import replacing
from data_tools.inspection.sheets import INK, PAPER, check_picture, place
from data_tools.open import open_store
from data_tools.store import Store
from fastmoco import draws
from fastmoco.augmentation.plain import augment
from fastmoco.draws import Colour
from fastmoco.loading.engines.threads import ThreadsEngine, decode
from fastmoco.recipe import Recipe

TILE, GAP, HEADER = 160, 8, 26  # pixels of the sheet
Q_COLOUR, K_COLOUR = (214, 69, 65), (38, 120, 178)


def views(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: Recipe,
    count: int = 24,
    epoch: int = 0,
) -> list[int]:
    """Draw the first `count` samples of an epoch into an image file, as training would see them.

    Returns the sample ids. Raises UserError if there is no such dataset, or the file's suffix is
    unknown.
    """
    out = Path(out)
    check_picture(out, "--out")
    for name, value, least in (("count", count, 1), ("epoch", epoch, 0)):
        if value < least:
            raise UserError(f"--{name} {value}: give {least} or more")
    recipe.check()
    store = open_store(data)
    ids = draws.permutation(recipe.seed, epoch, len(store))[:count]
    drawn = sheet(store, ids, recipe, epoch)
    with replacing(out) as partial:
        drawn.save(partial)
    return ids.tolist()


def sheet(store: Store, ids: NDArray[np.int64], recipe: Recipe, epoch: int) -> Image.Image:
    """Draw samples [B] with the windows and views that they have in an epoch."""
    aug, _ = recipe.augmentation.for_resolution(recipe.size)
    recipe = dataclasses.replace(recipe, augmentation=aug)
    windows = draws.crop_windows(
        recipe.seed, epoch, ids, store.sizes[ids], 2, aug.scale, aug.ratio
    )
    pixels = crop_and_augment(store, ids, windows, recipe, epoch)
    return draw_sheet([decode(store, int(i)) for i in ids], windows, pixels)


def crop_and_augment(
    store: Store, ids: NDArray[np.int64], windows: NDArray, recipe: Recipe, epoch: int
) -> NDArray[np.uint8]:
    """Make the views of samples [B] as training does, but without normalising them.

    Returns uint8 [V, B, S, S, 3].
    """
    crops = np.empty((len(ids), 2, recipe.size, recipe.size, 3), np.uint8)
    engine = ThreadsEngine(store)
    try:
        engine.submit(ids, windows, crops).result()
    finally:
        engine.close()
    plain = dataclasses.replace(recipe.augmentation, mean=(0.0,) * 3, std=(1.0,) * 3)
    colour = draws.colour(recipe.seed, epoch, ids, 2, plain).arrays()
    tensors = Colour(**{k: torch.from_numpy(v) for k, v in colour.items()})
    images = augment(torch.from_numpy(crops), tensors, plain)
    return (images * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()


def draw_sheet(
    sources: list[NDArray[np.uint8]], windows: NDArray, pixels: NDArray[np.uint8]
) -> Image.Image:
    """Draw (source, q, k) per sample, in up to three columns."""
    columns = min(3, max(1, len(sources) // 4))
    rows = -(-len(sources) // columns)
    cell = 3 * TILE + 3 * GAP + GAP
    sheet = Image.new(
        "RGB", (columns * cell + GAP, HEADER + rows * (TILE + GAP) + GAP), PAPER
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column in range(columns):
        left = GAP + column * cell
        pen.text((left, 6), "source", INK, font)
        pen.text((left + TILE + GAP, 6), "q", Q_COLOUR, font)
        pen.text((left + 2 * (TILE + GAP), 6), "k", K_COLOUR, font)
    for i, source in enumerate(sources):
        left = GAP + (i // rows) * cell
        top = HEADER + (i % rows) * (TILE + GAP)
        x, y, scale = place(sheet, Image.fromarray(source), left, top, TILE)
        for view, ink in ((0, Q_COLOUR), (1, K_COLOUR)):
            t, w_left, h, w = (float(v) * scale for v in windows[i, view])
            box = (x + w_left, y + t, x + w_left + max(w - 1, 0), y + t + max(h - 1, 0))
            pen.rectangle(box, outline=ink, width=2)
            tile = Image.fromarray(pixels[view, i]).resize(
                (TILE, TILE), Image.Resampling.BILINEAR if scale < 1 else Image.Resampling.NEAREST
            )
            sheet.paste(tile, (left + (view + 1) * (TILE + GAP), top))
    return sheet
