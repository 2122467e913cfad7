"""Linear evaluation of a frozen trunk by the official protocol, on random crops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from data_tools.errors import UserError
from data_tools.store import Store
from data_tools.subset import Subset
from fastmoco.evaluation.crop_loader import CropLoader
from fastmoco.evaluation.feature_cache import (
    Extraction,
    digest,
    features_of,
    images_digest,
    view_of,
)
from fastmoco.evaluation.labels import class_names, few_labels, held_out, shared_labels
from fastmoco.evaluation.linear_classifiers import Heads, choose
from fastmoco.evaluation.raw_pixels import pixel_encoder
from fastmoco.evaluation.resume_state import EpochState
from fastmoco.evaluation.scores import Score, score
from fastmoco.loading.engines.registry import open_engine
from fastmoco.model.encoder import Encoder
from fastmoco.settings.classifiers import LinearSettings
from fastmoco.settings.step_schedule import drop_epochs
from fastmoco.system.device import autocast
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.encoders import beginning, initial_encoder, load_encoder

OFFICIAL_RATE, OFFICIAL_EPOCHS, OFFICIAL_BATCH = 30.0, 100, 256
HELD_OUT = 0.1  # share of each class of TRAIN that is held out to choose the rate


@dataclass(frozen=True)
class Found:
    """Result for one set of features."""

    features: str
    rate: float
    """Learning rate of the scored classifier."""
    held_out: dict[float, float | None]
    """Accuracy on the held-out part of TRAIN by learning rate (None: diverged). Empty if there was
    only one rate."""
    score: Score
    """Score on VAL."""


@dataclass(frozen=True)
class Linear:
    """Result of a linear evaluation."""

    protocol: str
    """Description with every number that decides the result."""
    labelled: int
    """Number of images of TRAIN whose labels were used."""
    held_out: int
    """Number of these images that were held out to choose the rate."""
    rows: list[Found]
    trunk: str = ""
    """A line that states that the trunk did not change, verified by its hash."""


@dataclass(frozen=True)
class Parts:
    """Labels of both sets, and the split of TRAIN into images to learn from and held-out ones."""

    names: list[str]
    train_labels: NDArray[np.int64]
    val_labels: NDArray[np.int64]
    ids: NDArray[np.int64]
    """Ids of the images of TRAIN whose labels are used."""
    fit: NDArray[np.int64]
    """Places in ids of the images to learn from."""
    held: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Places in ids of the held-out images; empty if there is only one rate."""


def parts_of(train: Store, val: Store, settings: LinearSettings, rates: int) -> Parts:
    """The labels of both stores, and the split for this number of rates. Raises UserError if they
    cannot be evaluated."""
    names = class_names(train, val)
    train_labels, val_labels, _ = shared_labels(train, val)
    ids = few_labels(train_labels.numpy(), settings.labels, settings.seed)
    labels = train_labels.numpy()[ids]
    fit, held = np.arange(len(ids)), np.empty(0, np.int64)
    if rates > 1:
        fit, held = held_out(labels, HELD_OUT, settings.seed)
        if not len(held):
            raise UserError(
                f"--labels {settings.labels}: one image per class leaves none to choose the "
                f"learning rate by; use --labels 2/class or more, or name one rate with --lr"
            )
    return Parts(names, labels, val_labels.numpy(), ids, fit, held)


def linear(
    checkpoint: Checkpoint, train: Store, val: Store, how: Extraction,
    settings: LinearSettings = LinearSettings(), companions: bool = False,
) -> Linear:
    """Linear classification by the official protocol (main_lincls.py of facebookresearch/moco).

    The trunk is frozen in evaluation mode, and its pooled outputs are used unchanged. Random crops
    and flips, SGD, lr 30, batch 256, 100 epochs, x0.1 at 60 and 80. The classifier of the last
    epoch is scored; the official code reports the best epoch on VAL.

    Several rates are trained at once on the same batches, without a held-out part of TRAIN, which
    then chooses among them. With companions, also evaluate the same encoder at step 0 and centred
    raw pixels. If it is killed, the next run continues from the last saved epoch. Raises UserError
    for data and settings that cannot be evaluated.
    """
    settings.check()
    rates = settings.lr or (OFFICIAL_RATE,)
    epochs = settings.epochs or OFFICIAL_EPOCHS
    parts = parts_of(train, val, settings, len(rates))
    rows, frozen = [], 0
    builders = encoders(checkpoint, how.device, companions)
    if companions:
        labelled = Subset(train, parts.ids)
        builders["raw pixels"] = lambda: pixel_encoder(
            labelled, checkpoint.recipe, how.device, how.threads
        )
    for features, build in builders.items():
        encoder = build()
        recipe = checkpoint.recipe
        # before the training, since features that are not finite would waste it
        of_val = features_of(encoder, val, recipe, how)
        before = digest(encoder)
        heads = train_heads(encoder, checkpoint, train, parts, how, settings, rates, epochs)
        if digest(encoder) != before:
            raise RuntimeError("the trunk changed while the classifier was trained")
        frozen = frozen or len(encoder.trunk.state_dict())
        held = None
        if len(parts.held):
            held = features_of(encoder, Subset(train, parts.ids[parts.held]), recipe, how)
        rows.append(scored(features, heads, held, of_val, parts))
    exact = (rates, epochs, settings.batch) == ((OFFICIAL_RATE,), OFFICIAL_EPOCHS, OFFICIAL_BATCH)
    first, second = drop_epochs(epochs)
    name = "official linear protocol" if exact else "official linear protocol, changed"
    return Linear(
        f"{name}: {settings.labels} labels, random crops and flips, SGD, lr {shown(rates)}, batch "
        f"{settings.batch}, {epochs} epochs, x0.1 at {first} and {second}, last epoch",
        len(parts.ids), len(parts.held), rows,
        f"the trunk is unchanged, bit for bit: {frozen} tensors, with BatchNorm's statistics",
    )


def encoders(
    checkpoint: Checkpoint, device: torch.device, companions: bool
) -> dict[str, Callable[[], Encoder]]:
    """Builders of the encoders to evaluate, by name: only one need be in memory at a time."""
    found: dict[str, Callable[[], Encoder]] = {"trained": lambda: load_encoder(checkpoint, device)}
    if companions:
        found[beginning(checkpoint)] = lambda: initial_encoder(checkpoint.recipe, device).eval()
    return found


def train_heads(
    encoder: Encoder, checkpoint: Checkpoint, train: Store, parts: Parts, how: Extraction,
    settings: LinearSettings, rates: tuple[float, ...], epochs: int,
) -> Heads:
    """Train one classifier (head) per rate on random crops through the frozen trunk."""
    recipe, device = checkpoint.recipe, how.device
    store = Subset(train, parts.ids[parts.fit])
    heads = Heads(encoder.width, len(parts.names), rates, device, settings.seed)
    identity = (
        "linear", digest(encoder), images_digest(store), rates, epochs, settings.batch,
        settings.seed, view_of(recipe),
    )
    kept, first = EpochState(identity), 0
    if (state := kept.load(device, how.say)) is not None:
        heads.load_state_dict(state["heads"])
        first = state["epoch"]
    engine = open_engine(how.engine, store, how.threads, device).engine
    try:
        loader = CropLoader(store, recipe, engine, device, settings.batch, settings.seed)
        with torch.no_grad(), how.progress("linear", "images") as tick:
            done = 0
            for epoch in range(first, epochs):
                share = 0.1 ** sum(epoch >= drop for drop in drop_epochs(epochs))
                for images, label in loader.epoch(epoch):
                    with autocast(device, recipe.precision):
                        pooled = encoder.trunk(images)
                    heads.step(pooled.float(), label, share)
                    done += len(label)
                    tick(done, (epochs - first) * len(store))
                kept.save({"heads": heads.state_dict(), "epoch": epoch + 1})
    finally:
        engine.close()
    kept.drop()
    return heads


def scored(
    name: str, heads: Heads, held: torch.Tensor | None, val: torch.Tensor, parts: Parts
) -> Found:
    """Score on val of the head that is best on the held-out features, or of the only head."""
    if held is None:
        return Found(name, heads.rates[0], {}, score_of(heads, 0, val, parts))
    chosen = choose(heads, held, parts.train_labels[parts.held])
    at = best(chosen)
    by_rate = dict(zip(heads.rates, chosen, strict=True))
    return Found(name, heads.rates[at], by_rate, score_of(heads, at, val, parts))


def best(shares: list[float | None]) -> int:
    """Place of the largest share. Raises UserError if every head diverged."""
    if all(share is None for share in shares):
        raise UserError("every --lr diverged; give smaller ones")
    known = [-1.0 if share is None else share for share in shares]
    return known.index(max(known))


def score_of(heads: Heads, at: int, val: torch.Tensor, parts: Parts) -> Score:
    """Score of one head on features of VAL [N, D]."""
    likely = heads.predict(val)[at]
    top5 = None
    if len(parts.names) > 5:
        top5 = float((likely == parts.val_labels[:, None]).any(axis=1).mean())
    return score(likely[:, 0], parts.val_labels, parts.names, top5)


def shown(rates: tuple[float, ...]) -> str:
    """The rates in words: "30", or "0.0001 to 1 (9 of them, the best by a held-out part of
    TRAIN)"."""
    if len(rates) == 1:
        return f"{rates[0]:g}"
    return (
        f"{min(rates):g} to {max(rates):g} ({len(rates)} of them, the best by a held-out part of "
        f"TRAIN)"
    )
