"""Linear evaluation on cached features: takes minutes, while the official protocol takes hours."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.store import Store
from data_tools.subset import Subset
from fastmoco import draws
from fastmoco.evaluation.feature_cache import Extraction, features_of
from fastmoco.evaluation.linear import (
    Found,
    Linear,
    Parts,
    best,
    encoders,
    parts_of,
    score_of,
    scored,
    shown,
)
from fastmoco.evaluation.linear_classifiers import Heads, choose
from fastmoco.evaluation.raw_pixels import raw_pixels
from fastmoco.settings.classifiers import LinearSettings
from fastmoco.system.hardware import free_memory
from fastmoco.weights.checkpoint import Checkpoint

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)  # for standardised features
EPOCHS, STEPS = 20, 1000  # minimum of each
SHARE = 0.25  # of the device's free memory that features may take


def quick(
    checkpoint: Checkpoint, train: Store, val: Store, how: Extraction,
    settings: LinearSettings = LinearSettings(), companions: bool = False,
) -> Linear:
    """Linear classification of cached features, one centred view per image.

    Softmax regression on features standardised by TRAIN's statistics; SGD with a cosine schedule
    trains all rates at once. The rate that is best on a held-out part of TRAIN is trained again on
    all of TRAIN. Takes less than a minute for small datasets.

    With companions, also evaluate the same encoder at step 0 and centred raw pixels.
    Raises UserError for data and settings that cannot be evaluated.
    """
    settings.check()
    rates = settings.lr or RATES
    parts = parts_of(train, val, settings, len(rates))
    recipe, rows = checkpoint.recipe, []
    labelled = Subset(train, parts.ids) if len(parts.ids) < len(train) else train
    for name, build in encoders(checkpoint, how.device, companions).items():
        encoder = build()
        rows.append(row_of(
            name, features_of(encoder, labelled, recipe, how),
            features_of(encoder, val, recipe, how), parts, how, settings, rates,
        ))
    if companions:
        pixels, centre = raw_pixels(labelled, recipe, threads=how.threads)
        val_pixels, _ = raw_pixels(val, recipe, centre, how.threads)
        rows.append(row_of("raw pixels", pixels, val_pixels, parts, how, settings, rates))
    epochs = epochs_of(settings, len(parts.ids))
    return Linear(
        f"quick linear protocol: {settings.labels} labels, cached features of one centred view, "
        f"standardised, SGD, lr {shown(rates)}, batch {settings.batch}, {epochs} epochs, cosine",
        len(parts.ids), len(parts.held), rows,
    )


def epochs_of(settings: LinearSettings, images: int) -> int:
    """Number of passes over the features: more if there are few of them, to reach STEPS."""
    steps = -(-images // settings.batch)
    return settings.epochs or max(EPOCHS, -(-STEPS // steps))


def row_of(
    name: str, features: torch.Tensor, val: torch.Tensor, parts: Parts, how: Extraction,
    settings: LinearSettings, rates: tuple[float, ...],
) -> Found:
    """Evaluate one set of features: float32 [N, D] of TRAIN and [N', D] of VAL, in host memory."""
    classes = len(parts.names)
    labels = torch.from_numpy(parts.train_labels)

    def fit(ids: NDArray[np.int64], rates: tuple[float, ...], title: str) -> Heads:
        with how.progress(title, "images") as tick:
            epochs = epochs_of(settings, len(ids))
            steps, done = epochs * -(-len(ids) // settings.batch), 0
            heads = Heads(features.shape[1], classes, rates, how.device, settings.seed)
            for epoch in range(epochs):
                order = ids[draws.permutation(settings.seed, epoch, len(ids))]
                for begin in range(0, len(order), settings.batch):
                    rows = torch.from_numpy(order[begin : begin + settings.batch]).to(device)
                    x = table[rows].to(how.device)
                    share = 0.5 * (1 + math.cos(math.pi * done / steps))
                    heads.step((x - mean) / deviation, label[rows].to(how.device), share)
                    done += 1
                tick((epoch + 1) * len(ids), epochs * len(ids))
        # fold the standardisation into the weights, so that they apply to raw features
        heads.weight /= deviation
        heads.bias -= heads.weight @ mean
        return heads

    fits = features.nbytes <= SHARE * free_memory(how.device)
    device = how.device if fits else torch.device("cpu")
    table, label = features.to(device), labels.to(device)
    deviation, mean = (x.to(how.device) for x in moments(features))
    if not len(parts.held):
        return scored(name, fit(parts.fit, rates, f"linear on {name}"), None, val, parts)
    trial = fit(parts.fit, rates, f"{len(rates)} rates on {name}")
    chosen = choose(trial, features[parts.held], parts.train_labels[parts.held])
    rate = rates[best(chosen)]
    final = fit(np.arange(len(features)), (rate,), f"linear on {name}")
    return Found(
        name, rate, dict(zip(rates, chosen, strict=True)), score_of(final, 0, val, parts)
    )


def moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Standard deviation and mean [D] of features [N, D], computed in chunks. A constant feature
    gets deviation 1, to avoid a division by zero."""
    total = torch.zeros(2, features.shape[1], dtype=torch.float64)
    for chunk in features.split(1 << 16):
        total += torch.stack([chunk.double().sum(0), chunk.double().square().sum(0)])
    mean = total[0] / len(features)
    variance = (total[1] / len(features) - mean**2).clamp(min=0)
    deviation = torch.where(variance > 1e-12 * (1 + mean**2), variance.sqrt(), 1.0)
    return deviation.float(), mean.float()
