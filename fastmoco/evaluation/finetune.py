"""Fine-tunes trunk and classifier on few labels or all, by SwAV's semi-supervised protocol.

Source: eval_semisup.py of facebookresearch/swav (2006.09882). SGD, momentum 0.9, no weight decay,
20 epochs, learning rates x0.2 at epochs 12 and 16, batch 256, random crops and flips. Learning
rates of trunk and classifier: 0.02 and 5 for 1 % of the labels, 0.01 and 0.2 for 10 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from data_tools.errors import UserError
from data_tools.store import Store
from data_tools.subset import Subset
from fastmoco.evaluation.crop_loader import CropLoader
from fastmoco.evaluation.feature_cache import Extraction, digest, images_digest, view_of
from fastmoco.evaluation.features import extract
from fastmoco.evaluation.labels import class_names, few_labels, shared_labels
from fastmoco.evaluation.resume_state import EpochState
from fastmoco.evaluation.scores import Score, score
from fastmoco.loading.engines.registry import open_engine
from fastmoco.model.encoder import Encoder
from fastmoco.settings.classifiers import FinetuneSettings
from fastmoco.settings.step_schedule import drop_epochs
from fastmoco.system.device import autocast, grad_scaler
from fastmoco.weights.checkpoint import Checkpoint
from fastmoco.weights.encoders import beginning, initial_encoder, load_encoder

EPOCHS, BATCH = 20, 256
DROP = 0.2  # factor of the learning rates at each of the two drops
FEW = 0.02  # below this share of the labels, use the rates for 1 %
RATES_FEW, RATES = (0.02, 5.0), (0.01, 0.2)  # (trunk, classifier), for a batch of 256
STEPS = 1000  # minimum: the steps of 20 epochs over 1 % of ImageNet
LEAST_BATCHES = 8  # batches per epoch: with few labels the batch is smaller


@dataclass(frozen=True)
class Plan:
    """Settings with the protocol's numbers filled in. Its repr is part of the key of resume files,
    so its name and fields must stay."""

    lr: float
    head_lr: float
    epochs: int
    batch: int

    def share(self, epoch: int) -> float:
        """Factor of the learning rates in an epoch."""
        return DROP ** sum(epoch >= drop for drop in drop_epochs(self.epochs))


def plan_of(settings: FinetuneSettings, labelled: int, images: int) -> Plan:
    """The protocol's numbers for `labelled` of `images` images. Rates are proportional to the
    batch."""
    batch = settings.batch or min(BATCH, max(16, labelled // LEAST_BATCHES))
    batch = min(batch, labelled)
    lr, head_lr = RATES_FEW if labelled < FEW * images else RATES
    epochs = settings.epochs or max(EPOCHS, -(-STEPS // -(-labelled // batch)))
    scale = batch / BATCH
    return Plan((settings.lr or lr) * scale, (settings.head_lr or head_lr) * scale, epochs, batch)


@dataclass(frozen=True)
class Tuned:
    """Result of a fine-tuning."""

    protocol: str
    """Description with every number that decides the result."""
    labelled: int
    """Number of images of TRAIN whose labels were used."""
    rows: dict[str, Score]
    """Scores on VAL, by the name of the fine-tuned encoder."""


def finetune(
    checkpoint: Checkpoint, train: Store, val: Store, how: Extraction,
    settings: FinetuneSettings = FinetuneSettings(), companions: bool = False,
) -> Tuned:
    """Fine-tune the trunk and a classifier on the labelled part of train; score them on val after
    the last epoch. With companions, also fine-tune the encoder at step 0.

    If it is killed, the next run continues from the last saved epoch. Raises UserError for data and
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
        starts[beginning(checkpoint)] = lambda: initial_encoder(
            checkpoint.recipe, how.device, splits=1
        )
    rows = {}
    for name, start in starts.items():
        encoder = start()
        head = tune(encoder, checkpoint, Subset(train, ids), len(names), plan, how, settings.seed)
        with how.progress(f"features of {val.path.name}", "images") as tick:
            pooled = extract(
                encoder, val, checkpoint.recipe, how.device, how.threads, tick, how.engine
            )
        logits = head.cpu()(pooled)
        if not logits.isfinite().all():
            raise UserError(
                f"fine-tuning ({name}) diverged: give a smaller --lr or --head-lr; if that does "
                "not help, the checkpoint's weights overflow: give another checkpoint"
            )
        likely = logits.topk(min(5, len(names)), dim=1).indices.numpy()
        truth = val_labels.numpy()
        top5 = float((likely == truth[:, None]).any(axis=1).mean()) if len(names) > 5 else None
        rows[name] = score(likely[:, 0].astype(np.int64), truth, names, top5)
    first, second = drop_epochs(plan.epochs)
    return Tuned(
        f"fine-tuning, SwAV's semi-supervised protocol: {settings.labels} labels, random crops and "
        f"flips, SGD, lr {plan.lr:.3g} of the trunk and {plan.head_lr:.3g} of the classifier, "
        f"batch {plan.batch}, {plan.epochs} epochs, x{DROP} at {first} and {second}, last epoch",
        len(ids), rows,
    )


class Learner:
    """A trunk, a new classifier on it, and the optimizer that trains both in place."""

    def __init__(
        self, encoder: Encoder, classes: int, plan: Plan, device: torch.device, precision: str,
        seed: int,
    ) -> None:
        with seeded(seed):
            head = nn.Linear(encoder.width, classes)
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
        self.trunk, self.head = encoder.trunk, head.to(device)
        self._plan, self._device, self._precision = plan, device, precision
        groups: list[dict[str, Any]] = [
            {"params": list(self.trunk.parameters()), "lr": plan.lr},
            {"params": list(self.head.parameters()), "lr": plan.head_lr},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=plan.lr, momentum=0.9, fused=True)
        for group in groups:
            for p in group["params"]:  # zeros, as in model.build.make_optimizer
                self.optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
        self.scaler = grad_scaler(device, precision)
        self._stateful: dict[str, Any] = {
            "trunk": self.trunk, "head": self.head, "optimizer": self.optimizer,
            "scaler": self.scaler,
        }

    def begin(self, epoch: int) -> None:
        """Set the learning rates of an epoch."""
        rates = self._plan.lr, self._plan.head_lr
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr * self._plan.share(epoch)

    def step(self, images: torch.Tensor, label: torch.Tensor) -> None:
        """One step of SGD on cross entropy: images [B, 3, S, S], label int64 [B]."""
        with autocast(self._device, self._precision):
            pooled = self.trunk(images)
        loss = F.cross_entropy(self.head(pooled.float()), label)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed fine-tuning needs."""
        return {name: part.state_dict() for name, part in self._stateful.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of state_dict."""
        for name, part in self._stateful.items():
            part.load_state_dict(state[name])


def tune(
    encoder: Encoder, checkpoint: Checkpoint, store: Store, classes: int, plan: Plan,
    how: Extraction, seed: int,
) -> nn.Linear:
    """Train the encoder's trunk, in place, and a classifier on it, which is returned."""
    recipe, device = checkpoint.recipe, how.device
    identity = (
        "finetune", digest(encoder), images_digest(store), classes, plan, seed,
        view_of(recipe),
    )
    learner = Learner(encoder, classes, plan, device, recipe.precision, seed)
    kept, first = EpochState(identity), 0
    if (state := kept.load(device, how.say)) is not None:
        learner.load_state_dict(state)
        first = state["epoch"]
    engine = open_engine(how.engine, store, how.threads, device).engine
    encoder.train()
    try:
        loader = CropLoader(store, recipe, engine, device, plan.batch, seed)
        with how.progress("fine-tuning", "images") as tick:
            done = 0
            for epoch in range(first, plan.epochs):
                learner.begin(epoch)
                for images, label in loader.epoch(epoch):
                    if len(label) < 2:  # the last batch of an epoch: BatchNorm needs two images
                        continue
                    learner.step(images, label)
                    done += len(label)
                    tick(done, (plan.epochs - first) * len(store))
                kept.save(learner.state_dict() | {"epoch": epoch + 1})
    finally:
        engine.close()
    kept.drop()
    return learner.head


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator inside the block; restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
