"""A picture of what an encoder finds alike: queries, and the images nearest to each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data_tools.errors import UserError
from data_tools.files import replacing
from data_tools.store import Store
from fastmoco import draws
from fastmoco.evaluation.knn import nearest
from fastmoco.loading.engines.threads import decode

NEAREST = 8
TILE, GAP, HEADER, CAPTION = 112, 8, 26, 16  # pixels of the sheet
INK, PAPER, SAME, OTHER = (40, 40, 40), (250, 250, 248), (46, 139, 87), (214, 69, 65)


def check_sheet(sheet: Path) -> None:
    """UserError, before the long work, for a file that cannot be drawn into."""
    if sheet.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"--neighbours {sheet}: name a .png, .jpg or .webp file")
    if sheet.is_dir() or not sheet.parent.is_dir():
        raise UserError(f"--neighbours {sheet}: give a file in a folder that is there")


def draw_neighbours(
    features: torch.Tensor, store: Store, sheet: Path, count: int, seed: int,
    device: torch.device,
) -> NDArray[np.int64]:
    """Draw `count` images of a store, drawn by the seed, each with its nearest among all others by
    the cosine of features [N, D]: green where the label is the query's, red where it is another.

    Returns the ids drawn, int64 [count, 1 + NEAREST], the query first.
    """
    check_sheet(sheet)
    if count < 1:
        raise UserError(f"--count {count}: give 1 or more")
    queries = draws.permutation(seed, 0, len(store))[:count]
    similarity, place = nearest(features, features[torch.from_numpy(queries)], NEAREST + 1, device)
    found, rows = [], []
    for query, near, at in zip(queries.tolist(), similarity.tolist(), place.tolist(), strict=True):
        # the query finds itself, though a duplicate may come before it
        others = [(s, i) for s, i in zip(near, at, strict=True) if i != query][:NEAREST]
        rows.append((query, others))
        found.append([query, *(i for _, i in others)])
    picture = draw(store, rows)
    with replacing(sheet) as partial:
        picture.save(partial)
    return np.array(found)


def draw(store: Store, rows: list[tuple[int, list[tuple[float, int]]]]) -> Image.Image:
    """A row a query: itself, then (similarity, id) of each neighbour."""
    columns = 1 + max(len(others) for _, others in rows)
    high = TILE + CAPTION + GAP
    picture = Image.new(
        "RGB", (GAP + columns * (TILE + GAP) + GAP, HEADER + len(rows) * high + GAP), PAPER
    )
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    pen.text((GAP, 6), "query", INK, font)
    pen.text((2 * GAP + TILE + GAP, 6), "nearest first, with the cosine", INK, font)
    for number, (query, others) in enumerate(rows):
        top = HEADER + number * high
        put(picture, store, query, GAP, top)
        pen.text((GAP, top + TILE + 1), name(store, query), INK, font)
        for column, (cosine, i) in enumerate(others):
            left = 2 * GAP + (column + 1) * (TILE + GAP)
            put(picture, store, i, left, top)
            label = store.labels[i]
            ink = INK
            if label >= 0 and store.labels[query] >= 0:
                ink = SAME if label == store.labels[query] else OTHER
                pen.rectangle((left - 2, top - 2, left + TILE + 1, top + TILE + 1), None, ink, 2)
            pen.text((left, top + TILE + 1), f"{cosine:.2f} {name(store, i)}", ink, font)
    return picture


def name(store: Store, i: int) -> str:
    """The class of a sample, as far as the width goes."""
    label = int(store.labels[i])
    return store.classes[label][:12] if 0 <= label < len(store.classes) else ""


def put(picture: Image.Image, store: Store, i: int, left: int, top: int) -> None:
    """One image, whole, in the middle of its tile."""
    image = Image.fromarray(decode(store, i))
    scale = TILE / max(image.size)
    small = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
        Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST,
    )
    picture.paste(small, (left + (TILE - small.width) // 2, top + (TILE - small.height) // 2))
