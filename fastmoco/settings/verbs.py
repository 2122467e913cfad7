"""Settings of single commands, which their Python functions take too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_tools.errors import UserError
from data_tools.policy import Policy
from fastmoco.settings.extraction import DecodingSettings

Format = Literal["beton", "tfrecord", "recordio", "webdataset"]
To = Literal[
    "torchvision", "timm", "huggingface", "detectron2", "mmpretrain", "onnx", "official",
    "safetensors",
]


@dataclass(frozen=True)
class PrepSettings:
    """Choices of one call of prep, beside the policy."""

    shard: str = ""
    """i/n: prepare only every n-th part, starting with part i (counted from 0). When all are done,
    run prep once without it."""
    target_rate: float | None = None
    """With --plan: images/s that loading must reach."""
    disk: str = ""
    """With --plan: disk space for the dataset, such as 200GB."""

    def check(
        self, policy: Policy, plan: bool, against: Sequence[str | os.PathLike[str]]
    ) -> None:
        """Raise UserError for settings that do not go together."""
        rate = self.target_rate
        wrong = [
            (self.shard and policy.engine == "ray", "--shard and --engine ray: give one of them"),
            (self.shard and against, "--against goes without --shard"),
            (self.disk and not plan, "--disk goes with --plan"),
            (rate is not None and not plan, "--target-rate goes with --plan"),
            (rate is not None and not rate > 0, "--target-rate: give images/s above 0"),
        ]
        for is_so, line in wrong:
            if is_so:
                raise UserError(line)

    @property
    def part(self) -> tuple[int, int]:
        """(i, n) of `shard`."""
        i, slash, n = self.shard.partition("/")
        if not (slash and i.isdecimal() and n.isdecimal() and int(i) < int(n)):
            raise UserError(f"--shard {self.shard}: give i/n, with i from 0 to n - 1")
        return int(i), int(n)


@dataclass(frozen=True)
class BenchSettings(DecodingSettings):
    """Settings of bench."""

    compile: bool = False
    """Compile the encoders and the augmentation with torch.compile."""
    rounds: int = 7
    """Number of rounds. Each round measures every stage, and the result is the median."""
    seconds: float = 1.0
    """Seconds per stage and round."""


@dataclass(frozen=True)
class PublishedSettings:
    """A released checkpoint, and the data on which its figures were published."""

    checkpoint: Path | None = None
    """Released file: moco_v1_200ep, moco_v2_200ep or moco_v2_800ep, each followed by
    _pretrain.pth.tar."""
    imagenet: Path | None = None
    """ImageNet's validation set, labelled."""
    train: Path | None = None
    """ImageNet's training set, for kNN and --linear [default: the folder `train` beside the
    validation set, if there is one]."""
    linear: bool = False
    """Also run the linear evaluation, 100 epochs of ImageNet."""

    def bank(self, knn: bool) -> Path | None:
        """Return the training set to use, if there is one. knn: kNN figures are published."""
        if self.train is not None or self.imagenet is None:
            return self.train
        beside = self.imagenet.parent / "train"
        return beside if (knn or self.linear) and beside.exists() else None

    def check(self) -> None:
        """Raise UserError for settings that do not go together."""
        given = {"--imagenet": self.imagenet, "--train": self.train, "--linear": self.linear}
        alone = [name for name, value in given.items() if value]
        if self.checkpoint is None and alone:
            raise UserError(f"{alone[0]} goes with --checkpoint, a released MoCo checkpoint")
        if self.checkpoint is not None and self.imagenet is None:
            raise UserError(
                "--checkpoint is tried on ImageNet: add --imagenet VAL, and --train TRAIN"
            )
