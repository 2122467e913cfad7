"""Makes the pictures of a report: views, nearest neighbours, and a map of the features."""

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
from data_tools.inspection.sheets import class_name
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

SHEETS, PER_SHEET = 3, 3  # of views; three samples in a sheet are readable on a phone
QUERIES, NEAREST, THUMB = 8, 5, 128
COLOURS = 12  # classes with a colour of their own in the map: .k0 to .k11 in report.css


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, and its description in words."""

    uri: str
    alt: str


@dataclass(frozen=True)
class Neighbour:
    """A thumbnail of a sample."""

    picture: Picture
    name: str
    cosine: float
    same: bool | None
    """Whether it has the query's class; None without labels."""


@dataclass(frozen=True)
class Map:
    """Features of samples on their first two principal components."""

    points: list[tuple[float, float, int, str]]
    """(x, y, number of the colour or -1, class and key) per sample."""
    classes: list[str]
    """The name of each colour."""
    explained: float
    """Share of the features' variance that the two components hold."""


@dataclass(frozen=True)
class Pictures:
    """All pictures. A part that could not be made is empty, and `lacking` has the reason."""

    data: str = ""
    encoder: str = ""
    """File and step of the checkpoint."""
    views: list[Picture] = field(default_factory=list)
    neighbours: list[tuple[Neighbour, list[Neighbour]]] = field(default_factory=list)
    map: Map | None = None
    lacking: dict[str, str] = field(default_factory=dict)
    """Reason by part: views, features, neighbours."""


def pictures(
    record: RunRecord, data: Path | None, count: int, device_name: str, threads: int,
    tick: Tick | None = None,
) -> Pictures:
    """Make all pictures that can be made.

    A missing dataset or checkpoint leaves parts empty, and is no error. Raises UserError only if
    `data` is given and is not a dataset.
    """
    path = data or Path(on_disk(record.about.data))
    if data is None and not (str(path) != "." and os.path.exists(path)):
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
    """Call `draw`; if a sample does not decode, put the reason into `lacking`, return None."""
    try:
        return draw()
    except UserError as error:
        lacking[part] = str(error)
        return None


def newest(record: RunRecord) -> tuple[Checkpoint, str]:
    """Load the weights with the best kNN if the run saved them, else the last."""
    best = record.path / "checkpoint-best.pt"
    path = best if best.is_file() else record.path / "checkpoint.pt"
    return load(path), path.name


def draw_views(record: RunRecord, store: Store) -> list[Picture]:
    """Draw the views that the first samples of the first epoch had."""
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
    """Features float32 [n, width], normalised to length 1, and ids int64 [n], of `count` samples.

    The samples are evenly spread over the dataset.
    """
    device = pick_device(device_name)
    ids = np.unique(np.linspace(0, len(store) - 1, min(count, len(store))).round().astype(np.int64))
    encoder = load_encoder(checkpoint, device)
    found = extract(encoder, Subset(store, ids), checkpoint.recipe, device, threads, tick)
    check_finite(found, store.path.name)
    return F.normalize(found.float().cpu(), dim=1), ids


def find_neighbours(
    features: torch.Tensor, store: Subset
) -> list[tuple[Neighbour, list[Neighbour]]]:
    """Choose queries evenly, and find the samples with the largest cosine to each."""
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
    """Make the thumbnail of sample `i` for a row of `query`."""
    tile = thumbnail(store, i, THUMB)  # type: ignore[arg-type]
    name = class_name(store, i) or store.key(i)
    labels = int(store.labels[i]), int(store.labels[query])
    return Neighbour(
        Picture(data_uri(tile), store.key(i)), name, cosine,
        labels[0] == labels[1] if min(labels) >= 0 else None,
    )


def map_of(features: torch.Tensor, store: Store) -> Map:
    """Project features [n, width] on two principal components; colour the most frequent classes."""
    centred = features.double() - features.double().mean(0)
    _, s, v = torch.linalg.svd(centred, full_matrices=False)
    places = (centred @ v[:2].T).tolist()
    names = [class_name(store, i) for i in range(len(store))]
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
    """Encode an image as a JPEG for the source of an <img>."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=85, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
