"""Fine-tuning of trunk and classifier on few labels or all, by the published semi-supervised way.

Source: eval_semisup.py of facebookresearch/swav (2006.09882): SGD, momentum 0.9, no weight decay,
20 epochs, x0.2 at 12 and 16, batch 256, random crops and flips; learning rates of trunk and
classifier 0.02 and 5 for 1 % of the labels, 0.01 and 0.2 for 10 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from data_tools.errors import UserError
from data_tools.store import Store
from fastmoco.checkpoint import Checkpoint
from fastmoco.crops import CropLoader
from fastmoco.device import autocast, grad_scaler
from fastmoco.encoder import Encoder
from fastmoco.engines import open_engine
from fastmoco.epoch_state import EpochState
from fastmoco.feature_cache import Extraction, digest, images_digest
from fastmoco.features import Subset, extract, initial_encoder, load_encoder
from fastmoco.labels import class_names, few_labels, shared_labels
from fastmoco.scores import Score, score

EPOCHS, BATCH = 20, 256
DROPS, DROP = (0.6, 0.8), 0.2  # 12 and 16 of 20 epochs
FEW = 0.02  # a smaller share of the labels than this takes the rates for 1 %
RATES_FEW, RATES = (0.02, 5.0), (0.01, 0.2)  # of trunk and classifier, for a batch of 256
STEPS = 1000  # at least: what 20 epochs are for 1 % of ImageNet
LEAST_BATCHES = 8  # an epoch: a few hundred labels are no single batch


@dataclass(frozen=True)
class Settings:
    """What can be said of a fine-tuning; 0 stands for the protocol's own."""

    labels: str = "all"
    lr: float = 0.0
    """Of the trunk, for a batch of 256."""
    head_lr: float = 0.0
    """Of the classifier."""
    epochs: int = 0
    batch: int = 0
    seed: int = 0

    def check(self) -> None:
        """Raises UserError for values that cannot train."""
        for name, value in (("lr", self.lr), ("head-lr", self.head_lr)):
            if not 0 <= value < math.inf:
                raise UserError(f"--{name} {value}: give a rate above 0")
        if self.epochs < 0 or self.batch < 0 or self.batch == 1:
            raise UserError("--epochs and --batch: give 1 or more, and BatchNorm two images")


@dataclass(frozen=True)
class Plan:
    """Settings with every number filled in."""

    lr: float
    head_lr: float
    epochs: int
    batch: int

    def share(self, epoch: int) -> float:
        """Of the rates, in an epoch."""
        return DROP ** sum(epoch >= round(drop * self.epochs) for drop in DROPS)


def plan_of(settings: Settings, labelled: int, images: int) -> Plan:
    """The protocol for so many labelled images of so many. Rates go with the batch."""
    batch = settings.batch or min(BATCH, max(16, labelled // LEAST_BATCHES))
    batch = min(batch, labelled)
    lr, head_lr = RATES_FEW if labelled < FEW * images else RATES
    epochs = settings.epochs or max(EPOCHS, -(-STEPS // -(-labelled // batch)))
    scale = batch / BATCH
    return Plan((settings.lr or lr) * scale, (settings.head_lr or head_lr) * scale, epochs, batch)


@dataclass(frozen=True)
class Tuned:
    """What a fine-tuning found."""

    protocol: str
    """In words, with every number that decides the result."""
    labelled: int
    """Images of TRAIN whose labels were read."""
    rows: dict[str, Score]
    """On VAL, by what was fine-tuned."""


def finetune(
    checkpoint: Checkpoint, train: Store, val: Store, how: Extraction,
    settings: Settings = Settings(), companions: bool = False,
) -> Tuned:
    """Fine-tune trunk and a classifier on the labelled part of train; score both on val after the
    last epoch. With companions: from the encoder at step 0, too.

    Killed, it goes on from its last epoch when it is run again. Raises UserError for data and
    settings that cannot be evaluated.
    """
    settings.check()
    names = class_names(train, val)
    train_labels, val_labels, _ = shared_labels(train, val)
    ids = few_labels(train_labels.numpy(), settings.labels, settings.seed)
    if len(ids) < 2:
        raise UserError(f"--labels {settings.labels}: leaves one image; BatchNorm needs two")
    plan = plan_of(settings, len(ids), len(train))
    starts = {"trained": lambda: load_encoder(checkpoint, how.device, splits=1)}
    if companions:
        starts["at step 0"] = lambda: initial_encoder(checkpoint.recipe, how.device, splits=1)
    rows = {}
    for name, start in starts.items():
        encoder = start()
        head = tune(encoder, checkpoint, Subset(train, ids), len(names), plan, how, settings.seed)
        with how.progress(f"features of {val.path.name}", "images") as tick:
            pooled = extract(
                encoder, val, checkpoint.recipe, how.device, how.threads, tick, how.engine
            )
        likely = head.cpu()(pooled).topk(min(5, len(names)), dim=1).indices.numpy()
        truth = val_labels.numpy()
        top5 = float((likely == truth[:, None]).any(axis=1).mean()) if len(names) > 5 else None
        rows[name] = score(likely[:, 0].astype(np.int64), truth, names, top5)
    return Tuned(
        f"fine-tuning, SwAV's semi-supervised protocol: {settings.labels} labels, random crops and "
        f"flips, SGD, lr {plan.lr:.3g} of the trunk and {plan.head_lr:.3g} of the classifier, "
        f"batch {plan.batch}, {plan.epochs} epochs, x{DROP} at {round(DROPS[0] * plan.epochs)} and "
        f"{round(DROPS[1] * plan.epochs)}, last epoch",
        len(ids), rows,
    )


def tune(
    encoder: Encoder, checkpoint: Checkpoint, store: Store, classes: int, plan: Plan,
    how: Extraction, seed: int,
) -> nn.Linear:
    """Train the encoder's trunk, in place, and a classifier on it, which is returned."""
    recipe, device = checkpoint.recipe, how.device
    with seeded(seed):
        head = nn.Linear(encoder.width, classes)
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
    head.to(device)
    identity = (
        "finetune", digest(encoder), images_digest(store), classes, plan, seed,
        recipe.eval_size or recipe.size, recipe.precision,
    )
    groups = [
        {"params": list(encoder.trunk.parameters()), "lr": plan.lr},
        {"params": list(head.parameters()), "lr": plan.head_lr},
    ]
    optimizer = torch.optim.SGD(groups, lr=plan.lr, momentum=0.9, fused=True)
    for p in (*encoder.trunk.parameters(), *head.parameters()):  # see moco.make_optimizer
        optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    scaler = grad_scaler(device, recipe.precision)
    modules = {"trunk": encoder.trunk, "head": head}
    kept, first = EpochState(identity), 0
    if (state := kept.load(device)) is not None:
        for name, module in modules.items():
            module.load_state_dict(state[name])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        first = state["epoch"]
    engine = open_engine(how.engine, store, how.threads, device).engine
    encoder.train()
    try:
        loader = CropLoader(store, recipe, engine, device, plan.batch, seed)
        with how.progress("fine-tuning", "images") as tick:
            done = 0
            for epoch in range(first, plan.epochs):
                for group, lr in zip(optimizer.param_groups, (plan.lr, plan.head_lr), strict=True):
                    group["lr"] = lr * plan.share(epoch)
                for images, label in loader.epoch(epoch):
                    if len(label) < 2:  # the last of an epoch: BatchNorm needs two
                        continue
                    with autocast(device, recipe.precision):
                        pooled = encoder.trunk(images)
                    loss = F.cross_entropy(head(pooled.float()), label)
                    optimizer.zero_grad()
                    scaler.scale(loss).backward()
                    scaler.step(optimizer)
                    scaler.update()
                    done += len(label)
                    tick(done, (plan.epochs - first) * len(store))
                parts = {name: module.state_dict() for name, module in modules.items()}
                kept.save({
                    **parts, "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(),
                    "epoch": epoch + 1,
                })
    finally:
        engine.close()
    kept.drop()
    return head


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's generator from a seed, and as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
