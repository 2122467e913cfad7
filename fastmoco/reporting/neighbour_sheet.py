"""Draws queries and their nearest neighbours by an encoder's features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data_tools.errors import UserError
from data_tools.files import replacing
from data_tools.inspection.sheets import INK, PAPER, check_picture, class_name, place
from data_tools.store import Store
from fastmoco import draws
from fastmoco.evaluation.knn import nearest
from fastmoco.loading.engines.threads import decode

NEAREST = 8
TILE, GAP, HEADER, CAPTION = 112, 8, 26, 16  # pixels of the sheet
NAME = 12  # letters of a class's name that fit beside a cosine
SAME, OTHER = (46, 139, 87), (214, 69, 65)  # green: the query's class; red: another


def draw_neighbours(
    features: torch.Tensor, store: Store, sheet: Path, count: int, seed: int,
    device: torch.device,
) -> NDArray[np.int64]:
    """Draw random queries, each with its NEAREST other images by the cosine of features [N, D].

    The seed chooses `count` queries. A neighbour is green if it has the query's label, and red if
    it has another. Returns the ids in the sheet, int64 [count, 1 + NEAREST], the query first.
    """
    check_picture(sheet, "--neighbours")
    if count < 1:
        raise UserError(f"--count {count}: give 1 or more")
    queries = draws.permutation(seed, 0, len(store))[:count]
    similarity, place = nearest(features, features[torch.from_numpy(queries)], NEAREST + 1, device)
    found, rows = [], []
    for query, near, at in zip(queries.tolist(), similarity.tolist(), place.tolist(), strict=True):
        # the query finds itself, but perhaps after a duplicate of itself
        others = [(s, i) for s, i in zip(near, at, strict=True) if i != query][:NEAREST]
        rows.append((query, others))
        found.append([query, *(i for _, i in others)])
    picture = draw(store, rows)
    with replacing(sheet) as partial:
        picture.save(partial)
    return np.array(found)


def draw(store: Store, rows: list[tuple[int, list[tuple[float, int]]]]) -> Image.Image:
    """Draw a row per query: itself, then (similarity, id) of each neighbour."""
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
        place(picture, Image.fromarray(decode(store, query)), GAP, top, TILE)
        pen.text((GAP, top + TILE + 1), class_name(store, query)[:NAME], INK, font)
        for column, (cosine, i) in enumerate(others):
            left = 2 * GAP + (column + 1) * (TILE + GAP)
            place(picture, Image.fromarray(decode(store, i)), left, top, TILE)
            label = store.labels[i]
            ink = INK
            if label >= 0 and store.labels[query] >= 0:
                ink = SAME if label == store.labels[query] else OTHER
                pen.rectangle((left - 2, top - 2, left + TILE + 1, top + TILE + 1), None, ink, 2)
            text = f"{cosine:.2f} {class_name(store, i)[:NAME]}"
            pen.text((left, top + TILE + 1), text, ink, font)
    return picture
