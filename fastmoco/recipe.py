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
from data_tools.safe_reading.json_file import Damaged, typed

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PAPER_SIGMA = (0.1, 2.0)  # of the blur, pixels of a 224-pixel view (2003.04297)
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
    blur_sigma: tuple[float, float] = PAPER_SIGMA
    """Range of the blur's sigma in pixels of the view."""
    flip_p: float = 0.5
    """Probability of a horizontal flip."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of each channel, of pixels in 0..1, subtracted last."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of each channel, divided by last."""


    def check(self) -> None:
        """Raise UserError, in one line, where the values are no distribution."""
        rules = {
            "scale": 0 < self.scale[0] <= self.scale[1] <= 1,
            "ratio": 0 < self.ratio[0] <= self.ratio[1] < math.inf,
            "jitter": all(0 <= x < math.inf for x in self.jitter) and self.jitter[3] <= 0.5,
            "jitter_p": 0 <= self.jitter_p <= 1,
            "gray_p": 0 <= self.gray_p <= 1,
            "blur_p": 0 <= self.blur_p <= 1,
            "blur_sigma": 0 <= self.blur_sigma[0] <= self.blur_sigma[1] < math.inf,
            "flip_p": 0 <= self.flip_p <= 1,
            "mean": all(math.isfinite(x) for x in self.mean),
            "std": all(0 < x < math.inf for x in self.std),
        }
        allowed = {
            "scale": "two shares of the area, above 0 and up to 1, the smaller first",
            "ratio": "two ratios above 0, the smaller first",
            "jitter": "four strengths from 0, the last (hue) up to 0.5",
            "blur_sigma": "two sigmas from 0, the smaller first",
            "mean": "three finite numbers",
            "std": "three numbers above 0",
        }
        refuse(self, rules, allowed, "augmentation.")

    def for_resolution(self, size: int) -> tuple[Augmentation, str | None]:
        """This augmentation for views of `size` pixels, and a line on what differs.

        Sigma is in pixels, and the papers' 0.1 to 2 is for 224: smaller views take it in
        proportion, and below 64 pixels none (the official CIFAR-10 demo has no blur). Only where
        the range is the papers'; a range of one's own is left as it is.
        """
        if self.blur_p == 0 or size >= 224 or self.blur_sigma != PAPER_SIGMA:
            return self, None
        if size < 64:
            return replace(self, blur_p=0.0), (
                f"no blur: views of {size} pixels are too small for it (--augmentation.blur-sigma "
                "with a range of its own brings it back)"
            )
        most = round(PAPER_SIGMA[1] * size / 224, 2)
        return replace(self, blur_sigma=(PAPER_SIGMA[0], most)), (
            f"blur's sigma goes up to {most:g} pixels instead of {PAPER_SIGMA[1]:g}, in proportion "
            f"to views of {size} (--augmentation.blur-sigma with another range is taken as it is)"
        )


def refuse(
    values: Any, rules: dict[str, bool], allowed: dict[str, str], prefix: str = ""
) -> None:
    """UserError for the first field, by name, that breaks its rule: what is allowed instead."""
    for name, good in rules.items():
        if not good:
            value = getattr(values, name)
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            raise UserError(
                f"--{prefix}{flag(name)} {shown}: give {allowed.get(name, 'a share from 0 to 1')}"
            )


AUGMENT_V1 = Augmentation()
AUGMENT_V2 = replace(
    AUGMENT_V1, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray_first=False, blur_p=0.5
)
# The official CIFAR-10 demo: v2 without blur, smaller crops.
AUGMENT_CIFAR = replace(
    AUGMENT_V2, scale=(0.08, 1.0), blur_p=0.0, mean=CIFAR_MEAN, std=CIFAR_STD
)
AUGMENTATIONS = {"v1": AUGMENT_V1, "v2": AUGMENT_V2, "cifar": AUGMENT_CIFAR}

ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet-mini")
TIMM = "timm:"  # prefixes the name of a trunk of timm's
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Mechanism = Literal["queue", "memory-bank", "end-to-end"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run learns. It travels in the checkpoint."""

    name: str = "moco-v1"
    """The named recipe that this one began as."""
    arch: str = "resnet50"
    """Encoder: torchvision's resnet18, 34, 50, 101 or 152, resnet-mini for CPU runs, or any of
    timm's as timm:NAME (pip install 'fastmoco[timm]')."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """First layers of torchvision's: 7x7 stride 2 and max pooling, or one 3x3 of stride 1."""
    head: Literal["linear", "mlp"] = "linear"
    """Projection: one linear layer (v1), or linear, ReLU, linear (v2)."""
    dim: int = 128
    """Dimensions of q and k."""
    mechanism: Mechanism = "queue"
    """Where the negatives come from: MoCo's queue, or what the paper compares it with: a memory
    bank (one view a step), or the batch's other keys, trained end-to-end."""
    shared: bool = False
    """End-to-end with one set of weights for queries and keys."""
    symmetric: bool = False
    """Each view is query once and key once; both losses are added up (the official CIFAR demo)."""
    K: int = 65536
    """Keys in the queue; of a memory bank, how many are drawn a step; end-to-end has no use."""
    m: float = 0.999
    """Momentum of the key encoder."""
    T: float = 0.07
    """Temperature of the InfoNCE loss."""
    bn_splits: int = 8
    """BatchNorm statistics per this many parts of the batch, keys dealt out anew (paper 3.3)."""
    split: Literal["both", "keys"] = "both"
    """Encoders whose BatchNorm is split: both, or the keys' alone."""
    size: int = 224
    """Side of the square views, in pixels."""
    progressive: tuple[int, ...] = ()
    """Sides of the views over the epochs, in equal parts, the last one --size (128 160 224)."""
    eval_size: int = 0
    """Side of evaluation's views, in pixels [default: as --size]."""
    eval_crop: float = 0.875
    """Evaluation resizes the short side to its view's side / eval_crop and crops the centre."""
    stats: Literal["recipe", "data"] = "recipe"
    """Mean and deviation to normalise by: --augmentation.mean and std, or the dataset's own, taken
    from a sample of it before the first step and kept in the checkpoint."""
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
    order: Literal["auto", "random", "blocks"] = "auto"
    """Samples from anywhere, or in blocks, for data larger than memory; auto looks at both."""
    precision: Precision = "auto"
    """Compute type; auto takes bfloat16 where the hardware has it, else float16 or float32."""
    seed: int = 0
    """Decides the initial weights, the order, every crop and every colour."""

    def check(self, samples: int | None = None) -> None:
        """Raise UserError, in one line, where the values cannot train (on so many samples)."""
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
        keys = self.batch * (2 if self.symmetric else 1)
        if self.mechanism == "queue" and self.K < keys:
            both = ", twice with --symmetric" if self.symmetric else ""
            raise UserError(
                f"--K is {self.K}, below --batch {self.batch}: the queue must hold one batch of "
                f"keys{both}; use --K {keys} or more, or a smaller --batch"
            )

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
                f"--bn-splits {self.bn_splits} leaves one image a part of --batch {self.batch}: "
                f"BatchNorm needs two; use --bn-splits {self.batch // 2} or fewer"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides of all views that the encoder takes, in pixels."""
        return tuple(dict.fromkeys((*self.progressive, self.size, self.eval_size or self.size)))

    @property
    def negatives(self) -> int:
        """Negatives of each query."""
        return self.batch - 1 if self.mechanism == "end-to-end" else self.K

    def size_at(self, done: float) -> int:
        """Side of the views where a share `done` (0..1) of the training is behind."""
        sides = self.progressive or (self.size,)
        return sides[min(int(done * len(sides) + 1e-9), len(sides) - 1)]

    def augmentation_at(self, size: int) -> Augmentation:
        """The augmentation for views of `size` pixels."""
        return self.augmentation.for_resolution(size)[0]


MOCO_V1 = Recipe()
# 2003.04297: an MLP head, stronger augmentation, a cosine schedule; T from its Table 2.
MOCO_V2 = replace(
    MOCO_V1, name="moco-v2", head="mlp", T=0.2, schedule="cosine", augmentation=AUGMENT_V2
)
# The official CIFAR-10 demo (colab, asymmetric): 82.6 % kNN after 200 epochs, on a GPU. Its cosine
# counts epochs from 1, ours from 0.
MOCO_CIFAR = replace(
    MOCO_V1, name="moco-cifar", arch="resnet18", stem="cifar", K=4096, m=0.99, T=0.1, size=32,
    eval_crop=1.0, batch=512, lr=0.06, weight_decay=5e-4, schedule="cosine",
    augmentation=AUGMENT_CIFAR,
)
# A small encoder for CPUs and a short run: tuned on a split of CIFAR-10's training set, with whole
# BatchNorm (bench/README.md).
MOCO_CIFAR_MINI = replace(
    MOCO_CIFAR, name="moco-cifar-mini", arch="resnet-mini", size=24, eval_size=32, batch=256,
    epochs=13, lr=0.08, warmup=0.4, schedule_by="step", bn_splits=1,
    augmentation=replace(AUGMENT_CIFAR, scale=(0.2, 1.0)),
)
# What `make demo` trains: drawn images whose colours tell nothing, hence the strong hue.
MOCO_DEMO = replace(
    MOCO_CIFAR, name="moco-demo", arch="resnet-mini", K=512, size=32, eval_size=64, batch=64,
    epochs=24, schedule_by="step", warmup=0.4,
    augmentation=replace(AUGMENT_V2, jitter=(0.4, 0.4, 0.4, 0.4), blur_p=0.0),
)
RECIPES = {r.name: r for r in (MOCO_V1, MOCO_V2, MOCO_CIFAR, MOCO_CIFAR_MINI, MOCO_DEMO)}


def most_keys(samples: int, batch: int) -> int:
    """A K for a dataset: a power of two, a quarter of it at most, one batch at least."""
    return max(2 ** int(math.log2(max(samples // 4, 1))), batch)


def flag(name: str) -> str:
    """Field name to command-line flag: lr_max -> lr-max."""
    return name.replace("_", "-")


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain JSON values; from_dict is its inverse."""
    return dataclasses.asdict(recipe)


def fields_of(recipe: Recipe) -> dict[str, Any]:
    """Every value of a recipe by its flag's name, `augmentation.mean` for one."""
    values = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(Recipe)}
    inner = values.pop("augmentation")
    names = [f.name for f in dataclasses.fields(Augmentation)]
    return values | {f"augmentation.{name}": getattr(inner, name) for name in names}


def from_dict(values: Any) -> Recipe:
    """The recipe that to_dict gave (or JSON made of it).

    Raises Damaged, a ValueError, for a field that is not known or has another type, and if there is
    no augmentation. Other fields may be missing: an older release may not have had them.
    """
    recipe = typed(Recipe, values, "recipe")
    if "augmentation" not in values:
        raise Damaged("recipe.augmentation is missing")
    return recipe
