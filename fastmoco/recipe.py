"""What a training run is: frozen dataclasses, and the named recipes as their differences.

No numpy and no torch here: the command line reads its flags from this file, and its help must not
wait for them. Numbers come from the papers and the official code (main_moco.py, moco/builder.py,
moco/loader.py of facebookresearch/moco), cited beside each.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from data_tools.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True)
class Augmentation:
    """The distribution that both views of an image are drawn from; probabilities are per view."""

    scale: tuple[float, float] = (0.2, 1.0)
    """Range of the crop's share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width over its height, drawn uniformly in its logarithm."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.4)
    """Strengths of brightness, contrast, saturation and hue, applied in a random order."""
    jitter_p: float = 1.0
    """Probability of the colour jitter."""
    gray_p: float = 0.2
    """Probability of turning grey."""
    gray_first: bool = True
    """Grey before the jitter (v1) or after it (v2)."""
    blur_p: float = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's sigma in pixels of the view."""
    flip_p: float = 0.5
    """Probability of a horizontal flip."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of each channel, of pixels in 0..1, subtracted last."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of each channel, divided by last."""


AUGMENT_V1 = Augmentation()
AUGMENT_V2 = replace(
    AUGMENT_V1, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray_first=False, blur_p=0.5
)
# The official CIFAR-10 demo: v2 without blur, smaller crops.
AUGMENT_CIFAR = replace(
    AUGMENT_V2, scale=(0.08, 1.0), blur_p=0.0, mean=CIFAR_MEAN, std=CIFAR_STD
)
AUGMENTATIONS = {"v1": AUGMENT_V1, "v2": AUGMENT_V2, "cifar": AUGMENT_CIFAR}

Arch = Literal["resnet18", "resnet50", "resnet-mini"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run learns. It travels in the checkpoint."""

    name: str = "moco-v1"
    """The named recipe that this one began as."""
    arch: Arch = "resnet50"
    """Encoder: torchvision's ResNet-18 or 50, or the small residual net for CPU runs."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """First layers: 7x7 stride 2 and max pooling, or one 3x3 of stride 1 for small images."""
    head: Literal["linear", "mlp"] = "linear"
    """Projection: one linear layer (v1), or linear, ReLU, linear (v2)."""
    dim: int = 128
    """Dimensions of q and k."""
    K: int = 65536
    """Keys in the queue."""
    m: float = 0.999
    """Momentum of the key encoder."""
    T: float = 0.07
    """Temperature of the InfoNCE loss."""
    bn_splits: int = 8
    """BatchNorm statistics per this many parts of the batch, keys dealt out anew (paper 3.3)."""
    size: int = 224
    """Side of the square views, in pixels."""
    eval_size: int = 0
    """Side of evaluation's views, in pixels [default: as --size]."""
    eval_crop: float = 0.875
    """Evaluation resizes the short side to its view's side / eval_crop and crops the centre."""
    augmentation: Augmentation = AUGMENT_V1
    """Distribution of the two views."""
    batch: int = 256
    """Images a step."""
    epochs: int = 200
    """Passes over the data."""
    lr: float = 0.03
    """Peak learning rate of SGD, for the batch given above."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay of SGD, on every parameter as the official code does."""
    schedule: Literal["step", "cosine"] = "step"
    """Learning rate: x0.1 at 60 % and 80 % of the epochs (v1), or half a cosine (v2)."""
    schedule_by: Literal["epoch", "step"] = "epoch"
    """How often the learning rate moves; the papers' code moves it once an epoch."""
    warmup: float = 0.0
    """Epochs of linear warm-up; the papers use none."""
    precision: Precision = "auto"
    """Compute type; auto takes bfloat16 where the hardware has it, else float16 or float32."""
    seed: int = 0
    """Decides the initial weights, the order, every crop and every colour."""

    def check(self, samples: int | None = None) -> None:
        """Raise UserError, in one line, where the values cannot train (on so many samples)."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"--{flag(field.name)} is {value}: give a finite number")
        for name in ("dim", "K", "bn_splits", "size", "batch", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"--{flag(name)} is {getattr(self, name)}: it must be at least 1")
        if self.lr <= 0 or self.T <= 0:
            name, value = ("lr", self.lr) if self.lr <= 0 else ("T", self.T)
            raise UserError(f"--{flag(name)} is {value}: it must be above 0")
        if not 0 <= self.m <= 1:
            raise UserError(f"--m is {self.m}: the key encoder's momentum lies in 0..1")
        if self.K < self.batch:
            raise UserError(
                f"--K is {self.K}, below --batch {self.batch}: the queue must hold one batch of "
                f"keys; use --K {self.batch} or more, or a smaller --batch"
            )
        if self.batch % self.bn_splits:
            raise UserError(
                f"--batch {self.batch} does not divide into --bn-splits {self.bn_splits} parts; "
                f"choose a multiple"
            )
        if self.batch // self.bn_splits < 2:
            raise UserError(
                f"--bn-splits {self.bn_splits} leaves one image a part of --batch {self.batch}: "
                f"BatchNorm needs two; use --bn-splits {max(1, self.batch // 2)} or fewer"
            )
        if samples is not None and samples < self.batch:
            raise UserError(
                f"--batch {self.batch} is larger than the dataset ({samples} images); "
                f"use --batch {max(1, samples)} or less"
            )


MOCO_V1 = Recipe()
# 2003.04297: an MLP head, stronger augmentation, a cosine schedule; T from its Table 2.
MOCO_V2 = replace(
    MOCO_V1, name="moco-v2", head="mlp", T=0.2, schedule="cosine", augmentation=AUGMENT_V2
)
# The official CIFAR-10 demo (colab, asymmetric): 82.6 % kNN after 200 epochs, on a GPU.
MOCO_CIFAR = replace(
    MOCO_V1, name="moco-cifar", arch="resnet18", stem="cifar", K=4096, m=0.99, T=0.1, size=32,
    eval_crop=1.0, batch=512, lr=0.06, weight_decay=5e-4, schedule="cosine",
    augmentation=AUGMENT_CIFAR,
)
# A small encoder for CPUs and a short run: tuned on a split of CIFAR-10's training set.
MOCO_CIFAR_MINI = replace(
    MOCO_CIFAR, name="moco-cifar-mini", arch="resnet-mini", size=24, eval_size=32, batch=256,
    epochs=13, lr=0.08, warmup=0.4, schedule_by="step", bn_splits=1,
    augmentation=replace(AUGMENT_CIFAR, scale=(0.2, 1.0)),
)
# What `make demo` trains: drawn images whose colours tell nothing, hence the strong hue.
MOCO_DEMO = replace(
    MOCO_CIFAR, name="moco-demo", arch="resnet-mini", K=512, size=32, eval_size=64, batch=64,
    epochs=24, schedule_by="step", warmup=0.4,
    augmentation=replace(AUGMENT_V2, jitter=(0.4, 0.4, 0.4, 0.4)),
)
RECIPES = {r.name: r for r in (MOCO_V1, MOCO_V2, MOCO_CIFAR, MOCO_CIFAR_MINI, MOCO_DEMO)}


@dataclass(frozen=True)
class RunOptions:
    """How and where a run works; nothing here changes what it learns, beyond rounding."""

    out: str = ""
    """Run directory: checkpoints, metrics.jsonl, resolved recipe [default: runs/DATA-RECIPE]."""
    resume: bool = False
    """Go on from the run directory's checkpoint, to the same bits."""
    val: str = ""
    """A labelled prepared dataset: kNN on it is shown while training."""
    val_every: int = 0
    """Epochs between kNN measurements [default: about ten a run]."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints; one is also written at SIGTERM and at the end."""
    log_every: int = 20
    """Steps between log lines; the only place where the loop waits for the device."""
    threads: int = 0
    """Decoding threads [default: all cores]."""
    device: str = "auto"
    """cuda, cuda:N or cpu [default: cuda where there is one]."""
    augment: Literal["auto", "torch", "kornia"] = "auto"
    """Backend: our torch form on the GPU and compiled loops on the CPU, or one of them for all."""
    compile: bool = False
    """Compile encoders and augmentation with torch.compile (needs a C++ compiler on the CPU)."""


def flag(name: str) -> str:
    """Field name to command-line flag: lr_max -> lr-max."""
    return name.replace("_", "-")


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain JSON values; from_dict is its inverse."""
    return dataclasses.asdict(recipe)


def from_dict(values: dict[str, Any]) -> Recipe:
    """The recipe that to_dict gave (or JSON made of it); unknown names raise TypeError."""

    def tuples(v: Any) -> Any:
        return tuple(v) if isinstance(v, list) else v

    augmentation = {k: tuples(v) for k, v in values["augmentation"].items()}
    rest = {k: tuples(v) for k, v in values.items() if k != "augmentation"}
    return Recipe(**rest, augmentation=Augmentation(**augmentation))
