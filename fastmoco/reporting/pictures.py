"""What a report shows of a run's data: views, what the encoder finds alike, a map of features."""

from __future__ import annotations

import base64
import dataclasses
import io
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from data_tools.errors import UserError
from data_tools.inspection.contact_sheet import thumbnail
from data_tools.open import open_store
from data_tools.progress import Tick
from data_tools.sources.location import on_disk
from data_tools.store import Store
from data_tools.subset import Subset
from fastmoco import draws
from fastmoco.evaluation.features import check_finite, extract
from fastmoco.reporting.views import sheet
from fastmoco.runs.record import RunRecord
from fastmoco.system.device import pick_device
from fastmoco.weights.checkpoint import Checkpoint, load
from fastmoco.weights.encoders import load_encoder

SHEETS, PER_SHEET = 3, 3  # of views: a sheet is as wide as a phone
QUERIES, NEAREST, THUMB = 8, 5, 128
COLOURS = 12  # classes that the map tells apart


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, and what it shows in words."""

    uri: str
    alt: str


@dataclass(frozen=True)
class Neighbour:
    """A thumbnail of a sample."""

    picture: Picture
    name: str
    cosine: float
    same: bool | None
    """Whether it is of the query's class; None where there are no labels."""


@dataclass(frozen=True)
class Map:
    """Features of samples on their first two principal components."""

    points: list[tuple[float, float, int, str]]
    """(x, y, colour or -1, class and key)."""
    classes: list[str]
    """The name of each colour."""
    explained: float
    """Share of the features' variance that the two components hold."""


@dataclass(frozen=True)
class Pictures:
    """All of them; a part that could not be made is empty, and `lacking` says why."""

    data: str = ""
    encoder: str = ""
    """Which checkpoint's."""
    views: list[Picture] = field(default_factory=list)
    neighbours: list[tuple[Neighbour, list[Neighbour]]] = field(default_factory=list)
    map: Map | None = None
    lacking: dict[str, str] = field(default_factory=dict)
    """Reason by part: views, features."""


def pictures(
    record: RunRecord, data: Path | None, count: int, device_name: str, threads: int,
    tick: Tick | None = None,
) -> Pictures:
    """Draw what can be drawn: the dataset may have gone, the checkpoint be unwritten. Nothing that
    lacks is an error, but for a dataset that was named and is none."""
    path = data or Path(on_disk(record.about.data))
    if data is None and not (str(path) != "." and os.path.exists(path)):  # never raises
        gone = f"the dataset is not at {path} any more; name it with --data"
        return Pictures(lacking={"views": gone, "features": gone})
    store = open_store(path)
    lacking: dict[str, str] = {}
    shown = attempt(lambda: draw_views(record, store), "views", lacking) or []
    try:
        checkpoint, name = newest(record)
        features, ids = features_of(checkpoint, store, count, device_name, threads, tick)
    except UserError as error:
        lacking["features"] = str(error)
        return Pictures(str(path), "", shown, lacking=lacking)
    some = Subset(store, ids)
    neighbours = attempt(lambda: find_neighbours(features, some), "neighbours", lacking) or []
    encoder = f"{name}, step {checkpoint.step:,}"
    return Pictures(str(path), encoder, shown, neighbours, map_of(features, some), lacking)


def attempt(draw: Callable, part: str, lacking: dict[str, str]):
    """What it draws; the reason goes into `lacking` where a sample does not decode."""
    try:
        return draw()
    except UserError as error:
        lacking[part] = str(error)
        return None


def newest(record: RunRecord) -> tuple[Checkpoint, str]:
    """The best weights by kNN where there are such, else the last."""
    best = record.path / "checkpoint-best.pt"
    path = best if best.is_file() else record.path / "checkpoint.pt"
    return load(path), path.name


def draw_views(record: RunRecord, store: Store) -> list[Picture]:
    """The first samples of the first epoch, as they were drawn."""
    recipe = dataclasses.replace(record.recipe, size=record.recipe.size_at(0), progressive=())
    ids = draws.permutation(recipe.seed, 0, len(store))[: SHEETS * PER_SHEET]
    out = []
    for start in range(0, len(ids), PER_SHEET):
        some = ids[start : start + PER_SHEET]
        names = ", ".join(store.key(int(i)) for i in some)
        drawn = sheet(store, some, recipe, 0)
        alt = f"Sources with both windows, and views q and k: {names}"
        out.append(Picture(data_uri(drawn), alt))
    return out


def features_of(
    checkpoint: Checkpoint, store: Store, count: int, device_name: str, threads: int,
    tick: Tick | None,
) -> tuple[torch.Tensor, np.ndarray]:
    """Features float32 [n, width] of length 1 of up to `count` samples, evenly spread, and ids."""
    device = pick_device(device_name)
    ids = np.unique(np.linspace(0, len(store) - 1, min(count, len(store))).round().astype(np.int64))
    encoder = load_encoder(checkpoint, device)
    found = extract(encoder, Subset(store, ids), checkpoint.recipe, device, threads, tick)
    check_finite(found, store.path.name)
    return F.normalize(found.float().cpu(), dim=1), ids


def find_neighbours(
    features: torch.Tensor, store: Subset
) -> list[tuple[Neighbour, list[Neighbour]]]:
    """Queries, evenly spread, each with the samples of the largest cosine to it."""
    count = min(QUERIES, len(store))
    queries = np.linspace(0, len(store) - 1, count + 2).round().astype(np.int64)[1:-1]
    out = []
    for query in np.unique(queries).tolist():
        cosine = features @ features[query]
        cosine[query] = -2.0  # not itself
        best = cosine.topk(min(NEAREST, len(store) - 1))
        near = [
            neighbour(store, i, c, query)
            for c, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        out.append((neighbour(store, query, 1.0, query), near))
    return out


def neighbour(store: Subset, i: int, cosine: float, query: int) -> Neighbour:
    tile = thumbnail(store, i, THUMB)  # type: ignore[arg-type]
    name = class_of(store, i) or store.key(i)
    labels = int(store.labels[i]), int(store.labels[query])
    return Neighbour(
        Picture(data_uri(tile), store.key(i)), name, cosine,
        labels[0] == labels[1] if min(labels) >= 0 else None,
    )


def class_of(store: Store, i: int) -> str:
    """The name of a sample's class; its number where there are no names; empty without."""
    label = int(store.labels[i])
    if label < 0:
        return ""
    return store.classes[label] if label < len(store.classes) else f"class {label}"


def map_of(features: torch.Tensor, store: Store) -> Map:
    """Principal components of features [n, width], the most frequent classes told apart."""
    centred = features.double() - features.double().mean(0)
    _, s, v = torch.linalg.svd(centred, full_matrices=False)
    places = (centred @ v[:2].T).tolist()
    names = [class_of(store, i) for i in range(len(store))]
    counts = Counter(n for n in names if n)
    shown = sorted(sorted(counts, key=lambda n: (-counts[n], n))[:COLOURS])
    colour = {name: i for i, name in enumerate(shown)}
    points = [
        (p[0], p[1] if len(p) > 1 else 0.0, colour.get(name, -1),
         ", ".join(filter(None, (name, store.key(i)))))
        for i, (p, name) in enumerate(zip(places, names, strict=True))
    ]
    whole = float(s.square().sum()) or 1.0
    return Map(points, shown, float(s[:2].square().sum()) / whole)


def data_uri(image: Image.Image) -> str:
    """A JPEG as the source of an <img>."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=85, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
