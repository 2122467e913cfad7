"""Linear evaluation of a frozen trunk by the official protocol, from images."""

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
from fastmoco.system.device import autocast
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.encoders import beginning, initial_encoder, load_encoder

OFFICIAL_RATE, OFFICIAL_EPOCHS, OFFICIAL_BATCH = 30.0, 100, 256
DROPS = (0.6, 0.8)  # 60 and 80 of 100 epochs
HELD_OUT = 0.1  # of TRAIN, class by class


@dataclass(frozen=True)
class Found:
    """One set of features, evaluated."""

    features: str
    rate: float
    """The learning rate of the classifier that is scored."""
    held_out: dict[float, float | None]
    """Share right on the held-out part of TRAIN, by learning rate (None: it diverged); empty where
    there was one rate, and nothing to choose."""
    score: Score
    """On VAL."""


@dataclass(frozen=True)
class Linear:
    """What a linear evaluation found."""

    protocol: str
    """In words, with every number that decides the result."""
    labelled: int
    """Images of TRAIN whose labels were read."""
    held_out: int
    """How many of them chose the rate."""
    rows: list[Found]
    trunk: str = ""
    """The proof that the trunk stayed what it was."""


@dataclass(frozen=True)
class Parts:
    """Labels, and which images of TRAIN are learnt from and chosen by."""

    names: list[str]
    train_labels: NDArray[np.int64]
    val_labels: NDArray[np.int64]
    ids: NDArray[np.int64]
    """All images of TRAIN whose labels are read."""
    fit: NDArray[np.int64]
    """Places in ids."""
    held: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Places in ids; empty where there is nothing to choose."""


def parts_of(train: Store, val: Store, settings: LinearSettings, rates: int) -> Parts:
    """The labels of both stores; UserError where they don't serve."""
    names = class_names(train, val)
    train_labels, val_labels, _ = shared_labels(train, val)
    ids = few_labels(train_labels.numpy(), settings.labels, settings.seed)
    labels = train_labels.numpy()[ids]
    fit, held = np.arange(len(ids)), np.empty(0, np.int64)
    if rates > 1:
        fit, held = held_out(labels, HELD_OUT, settings.seed)
        if not len(held):
            raise UserError(
                f"--labels {settings.labels}: one image a class leaves none to choose the learning "
                f"rate by; use --labels 2/class or more, or name one rate with --lr"
            )
    return Parts(names, labels, val_labels.numpy(), ids, fit, held)


def linear(
    checkpoint: Checkpoint, train: Store, val: Store, how: Extraction,
    settings: LinearSettings = LinearSettings(), companions: bool = False,
) -> Linear:
    """The official protocol (main_lincls.py of facebookresearch/moco): the trunk frozen in
    evaluation mode, its pooled outputs as they are, random crops and flips from the images,
    SGD, lr 30, batch 256, 100 epochs, x0.1 at 60 and 80; the last epoch's classifier is scored (the
    official code keeps the epoch that VAL likes best).

    Several rates are trained at once on the same batches, less a held-out part of TRAIN that
    chooses among them. With companions: the same encoder at step 0, and centred raw pixels.
    Killed, it goes on from its last epoch when it is run again. Raises UserError for data and
    settings that cannot be evaluated.
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
        # before the training, which features that are not finite would waste
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
    name = "official linear protocol" if exact else "official linear protocol, changed"
    return Linear(
        f"{name}: {settings.labels} labels, random crops and flips, SGD, lr {shown(rates)}, batch "
        f"{settings.batch}, {epochs} epochs, x0.1 at {round(DROPS[0] * epochs)} and "
        f"{round(DROPS[1] * epochs)}, last epoch",
        len(parts.ids), len(parts.held), rows,
        f"the trunk is bit for bit what it was: {frozen} tensors, BatchNorm's statistics too",
    )


def encoders(
    checkpoint: Checkpoint, device: torch.device, companions: bool
) -> dict[str, Callable[[], Encoder]]:
    """What to evaluate, by name: one encoder in memory at a time."""
    found: dict[str, Callable[[], Encoder]] = {"trained": lambda: load_encoder(checkpoint, device)}
    if companions:
        found[beginning(checkpoint)] = lambda: initial_encoder(checkpoint.recipe, device).eval()
    return found


def train_heads(
    encoder: Encoder, checkpoint: Checkpoint, train: Store, parts: Parts, how: Extraction,
    settings: LinearSettings, rates: tuple[float, ...], epochs: int,
) -> Heads:
    """One head a rate, trained on random crops through the frozen trunk."""
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
                share = 0.1 ** sum(epoch >= round(drop * epochs) for drop in DROPS)
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
    """The head that the held-out features choose (or the only one), scored on val."""
    if held is None:
        return Found(name, heads.rates[0], {}, score_of(heads, 0, val, parts))
    chosen = choose(heads, held, parts.train_labels[parts.held])
    at = best(chosen)
    by_rate = dict(zip(heads.rates, chosen, strict=True))
    return Found(name, heads.rates[at], by_rate, score_of(heads, at, val, parts))


def best(shares: list[float | None]) -> int:
    """The place of the best share; UserError where no head learnt anything finite."""
    if all(share is None for share in shares):
        raise UserError("every --lr diverged; give smaller ones")
    known = [-1.0 if share is None else share for share in shares]
    return known.index(max(known))


def score_of(heads: Heads, at: int, val: torch.Tensor, parts: Parts) -> Score:
    """One head's score on features of VAL [N, D]."""
    likely = heads.predict(val)[at]
    top5 = None
    if len(parts.names) > 5:
        top5 = float((likely == parts.val_labels[:, None]).any(axis=1).mean())
    return score(likely[:, 0], parts.val_labels, parts.names, top5)


def shown(rates: tuple[float, ...]) -> str:
    """30, or `0.0001 to 1 (9 of them, chosen on a held-out part of TRAIN)`."""
    if len(rates) == 1:
        return f"{rates[0]:g}"
    return (
        f"{min(rates):g} to {max(rates):g} ({len(rates)} of them, the best by a held-out part of "
        f"TRAIN)"
    )
