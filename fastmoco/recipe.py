"""The recipe of a training run: every number that decides the result, and the named recipes.

The named recipes are written as differences from moco-v1. This file imports neither numpy nor
torch, because the command line reads its flags from here and --help must be fast. Numbers come from
the papers and the official code (main_moco.py, moco/builder.py, moco/loader.py of
facebookresearch/moco), cited beside each.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from data_tools.errors import UserError
from data_tools.safe_reading.json_file import Damaged, typed
from fastmoco.settings import queue_size
from fastmoco.settings.augmentation import (
    AUGMENT_CIFAR,
    AUGMENT_V1,
    AUGMENT_V2,
    AUGMENTATIONS,
    CIFAR_MEAN,
    CIFAR_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
)
from fastmoco.settings.rules import flag, refuse

__all__ = [
    "ARCHS", "AUGMENT_CIFAR", "AUGMENT_V1", "AUGMENT_V2", "AUGMENTATIONS", "Augmentation",
    "CIFAR_MEAN", "CIFAR_STD", "IMAGENET_MEAN", "IMAGENET_STD", "MOCO_CIFAR", "MOCO_CIFAR_MINI",
    "MOCO_DEMO", "MOCO_V1", "MOCO_V2", "Mechanism", "Precision", "RECIPES", "Recipe", "TIMM",
    "fields_of", "flag", "from_dict", "refuse", "replace", "to_dict",
]
ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet-mini")
TIMM = "timm:"  # prefix of an encoder from timm
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Mechanism = Literal["queue", "memory-bank", "end-to-end"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result of a run. Each checkpoint contains its recipe."""

    name: str = "moco-v1"
    """Named recipe that this one started from."""
    arch: str = "resnet50"
    """Encoder: resnet18, resnet34, resnet50, resnet101 or resnet152 of torchvision, resnet-mini
    for runs on a CPU, or timm:NAME for one of timm's (pip install 'fastmoco[timm]')."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """First layers of a ResNet: imagenet is a 7x7 convolution of stride 2 and max pooling, cifar is
    one 3x3 convolution of stride 1."""
    head: Literal["linear", "mlp"] = "linear"
    """Projection head: linear is one layer (v1), mlp is linear, ReLU, linear (v2)."""
    dim: int = 128
    """Number of dimensions of q and k."""
    mechanism: Mechanism = "queue"
    """Source of the negatives: MoCo's queue, a memory bank (one view per step), or end-to-end, the
    other keys of the batch. The paper compares these three."""
    shared: bool = False
    """With --mechanism end-to-end: use one set of weights for queries and keys."""
    symmetric: bool = False
    """Use each view once as query and once as key, and add both losses (official CIFAR demo)."""
    K: int = 65536
    """Number of keys in the queue, or drawn per step from the memory bank. Unused by end-to-end."""
    m: float = 0.999
    """Momentum of the key encoder."""
    T: float = 0.07
    """Temperature of the InfoNCE loss."""
    bn_splits: int = 8
    """Number of parts of a batch with BatchNorm statistics of their own. Keys are shuffled over the
    parts, so that statistics do not reveal a query's key (paper, section 3.3)."""
    split: Literal["both", "keys"] = "both"
    """Encoders whose BatchNorm is split: both, or only that of the keys."""
    size: int = 224
    """Side of the square training views, in pixels."""
    progressive: tuple[int, ...] = ()
    """Sides of the views in equal parts of the training, such as 128 160 224. The last one must
    be --size."""
    eval_size: int = 0
    """Side of the views in evaluations, in pixels [default: --size]."""
    eval_crop: float = 0.875
    """Share of the resized image's short side that evaluations crop from its centre."""
    stats: Literal["recipe", "data"] = "recipe"
    """Mean and standard deviation for normalisation: recipe takes --augmentation.mean and .std,
    data measures them on a sample of the dataset before the first step."""
    augmentation: Augmentation = AUGMENT_V1
    """Distribution of the two views."""
    batch: int = 256
    """Images per step."""
    epochs: int = 200
    """Number of passes over the data."""
    lr: float = 0.03
    """Peak learning rate of SGD. It is not scaled by --batch."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay of SGD, on every parameter as in the official code."""
    schedule: Literal["step", "cosine"] = "step"
    """Learning rate over time: step multiplies it by 0.1 at 60 % and 80 % of the epochs (v1),
    cosine lets it fall to 0 along half a cosine (v2)."""
    schedule_by: Literal["epoch", "step"] = "epoch"
    """Change the learning rate once per epoch, as the official code does, or at every step."""
    warmup: float = 0.0
    """Number of epochs in which the learning rate rises linearly from 0. The papers use none."""
    order: Literal["auto", "random", "blocks"] = "auto"
    """Order of the samples: random over all data, or in blocks for data larger than memory. auto
    compares the data with the memory."""
    precision: Precision = "auto"
    """Data type of the computation. auto takes bfloat16 if the hardware has it, else float16 on a
    GPU and float32 on a CPU."""
    seed: int = 0
    """Seed of the initial weights, the order of the samples and every augmentation."""

    def check(self, samples: int | None = None) -> None:
        """Raise UserError if these values cannot train (on a dataset of `samples` images)."""
        whole = ("dim", "K", "bn_splits", "size", "batch", "epochs")
        rules = {name: getattr(self, name) >= 1 for name in whole} | {
            "arch": self.arch in ARCHS or self.arch.startswith(TIMM),
            "lr": 0 < self.lr < math.inf,
            "T": 0 < self.T < math.inf,
            "m": 0 <= self.m <= 1,
            "momentum": 0 <= self.momentum < 1,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "warmup": 0 <= self.warmup <= self.epochs,
            "eval_size": self.eval_size >= 0,
            "eval_crop": 0 < self.eval_crop <= 1,
            "seed": 0 <= self.seed < 2**63,
        }
        finite = "a finite number above 0"
        allowed = dict.fromkeys(whole, "1 or more") | {
            "arch": f"{', '.join(ARCHS)}, or timm:NAME",
            "lr": finite,
            "T": finite,
            "momentum": "a number from 0, below 1",
            "weight_decay": "a finite number from 0",
            "warmup": f"epochs from 0 to --epochs {self.epochs}",
            "eval_size": "a size in pixels, or 0 for --size",
            "eval_crop": "a share above 0, up to 1",
            "seed": "a whole number from 0, below 2**63",
        }
        refuse(self, rules, allowed)
        self.augmentation.check()
        self._check_mechanism(samples)
        self._check_batch(samples)

    def _check_mechanism(self, samples: int | None) -> None:
        if self.progressive and (
            self.progressive[-1] != self.size or min(self.progressive) < 1
            or len(self.progressive) > self.epochs
        ):
            raise UserError(
                f"--progressive {' '.join(map(str, self.progressive))}: give sides in pixels, at "
                f"most one an epoch, the last of them --size {self.size}"
            )
        if self.shared and self.mechanism != "end-to-end":
            raise UserError("--shared goes with --mechanism end-to-end")
        if self.mechanism == "memory-bank" and self.symmetric:
            raise UserError("--symmetric needs two encoded views: a memory bank has one")
        if self.mechanism == "queue":
            queue_size.refuse_small(self.K, self.batch, self.symmetric)

    def _check_batch(self, samples: int | None) -> None:
        if samples is not None and samples < 2:
            raise UserError(f"the dataset holds {samples} image: training needs at least two")
        if self.batch % self.bn_splits:
            raise UserError(
                f"--batch {self.batch} does not divide into --bn-splits {self.bn_splits} parts; "
                f"choose a multiple"
            )
        if samples is not None and samples < self.batch:
            raise UserError(
                f"--batch {self.batch} is larger than the dataset ({samples} images); "
                f"use --batch {samples} or less"
            )
        if self.batch < 2:
            raise UserError(f"--batch {self.batch}: BatchNorm needs at least two images")
        if self.batch // self.bn_splits < 2:
            raise UserError(
                f"--bn-splits {self.bn_splits} leaves one image per part of --batch {self.batch}: "
                f"BatchNorm needs two; use --bn-splits {self.batch // 2} or fewer"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """All sides of views, in pixels, that the encoder sees in training and evaluation."""
        return tuple(dict.fromkeys((*self.progressive, self.size, self.eval_size or self.size)))

    @property
    def negatives(self) -> int:
        """Number of negatives per query."""
        return self.batch - 1 if self.mechanism == "end-to-end" else self.K

    def size_at(self, done: float) -> int:
        """Return the side of the views after the share `done` (0 to 1) of the training."""
        sides = self.progressive or (self.size,)
        return sides[min(int(done * len(sides) + 1e-9), len(sides) - 1)]

    def augmentation_at(self, size: int) -> Augmentation:
        """Return the augmentation for views of `size` pixels."""
        return self.augmentation.for_resolution(size)[0]


MOCO_V1 = Recipe()
# 2003.04297: an MLP head, stronger augmentation, a cosine schedule; T from its Table 2.
MOCO_V2 = replace(
    MOCO_V1, name="moco-v2", head="mlp", T=0.2, schedule="cosine", augmentation=AUGMENT_V2
)
# The official CIFAR-10 demo (colab, asymmetric) reaches 82.6 % kNN after 200 epochs on a GPU. Its
# cosine counts epochs from 1, ours from 0.
MOCO_CIFAR = replace(
    MOCO_V1, name="moco-cifar", arch="resnet18", stem="cifar", K=4096, m=0.99, T=0.1, size=32,
    eval_crop=1.0, batch=512, lr=0.06, weight_decay=5e-4, schedule="cosine",
    augmentation=AUGMENT_CIFAR,
)
# A small encoder and a short run, for CPUs. Tuned on a split of CIFAR-10's training set, without
# split BatchNorm (bench/README.md).
MOCO_CIFAR_MINI = replace(
    MOCO_CIFAR, name="moco-cifar-mini", arch="resnet-mini", size=24, eval_size=32, batch=256,
    epochs=13, lr=0.08, warmup=0.4, schedule_by="step", bn_splits=1,
    augmentation=replace(AUGMENT_CIFAR, scale=(0.2, 1.0)),
)
# The recipe of `make demo`. The colours of its drawn images mean nothing, hence the strong hue.
MOCO_DEMO = replace(
    MOCO_CIFAR, name="moco-demo", arch="resnet-mini", K=512, size=32, eval_size=64, batch=64,
    epochs=24, schedule_by="step", warmup=0.4,
    augmentation=replace(AUGMENT_V2, jitter=(0.4, 0.4, 0.4, 0.4), blur_p=0.0),
)
RECIPES = {r.name: r for r in (MOCO_V1, MOCO_V2, MOCO_CIFAR, MOCO_CIFAR_MINI, MOCO_DEMO)}


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain JSON values. from_dict is the inverse."""
    return dataclasses.asdict(recipe)


def fields_of(recipe: Recipe) -> dict[str, Any]:
    """Return every value of a recipe by its name, for example `augmentation.mean`."""
    values = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(Recipe)}
    inner = values.pop("augmentation")
    names = [f.name for f in dataclasses.fields(Augmentation)]
    return values | {f"augmentation.{name}": getattr(inner, name) for name in names}


def from_dict(values: Any) -> Recipe:
    """Return the recipe that to_dict wrote, directly or through JSON.

    Raises Damaged (a ValueError) for an unknown field, a wrong type or a missing augmentation.
    Other fields may be missing and get their defaults, because older releases did not have them.
    """
    recipe = typed(Recipe, values, "recipe")
    if "augmentation" not in values:
        raise Damaged("recipe.augmentation is missing")
    return recipe
