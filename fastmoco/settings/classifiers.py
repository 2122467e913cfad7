"""Settings of the evaluations that train a classifier: linear and finetune."""

from __future__ import annotations

import math
from dataclasses import dataclass

from data_tools.errors import UserError
from fastmoco.settings.rules import check_seed


@dataclass(frozen=True)
class LinearSettings:
    """Settings of a linear evaluation. () and 0 stand for the values of the protocol."""

    lr: tuple[float, ...] = ()
    """Learning rate of the classifier, or several to choose from [default: 30; with --quick nine
    from 0.0001 to 1]."""
    epochs: int = 0
    """Number of passes over TRAIN [default: 100; with --quick 20, or more to reach 1,000 steps]."""
    batch: int = 256
    """Images per step."""
    labels: str = "all"
    """Labels to use: all, a share of each class (1%, 10%), or a number of each class (5/class)."""
    seed: int = 0
    """Seed of the order, the crops, the chosen labels and the held-out images."""

    def check(self) -> None:
        """Raise UserError for values that cannot train."""
        check_seed(self.seed)
        if any(not 0 < lr < math.inf for lr in self.lr):
            raise UserError(f"--lr {' '.join(map(str, self.lr))}: give rates above 0")
        if self.epochs < 0 or self.batch < 1:
            raise UserError("--epochs and --batch: give 1 or more")


@dataclass(frozen=True)
class FinetuneSettings:
    """Settings of a fine-tuning. 0 stands for the value of the protocol."""

    labels: str = "all"
    """Labels to use: all, a share of each class (1%, 10%), or a number of each class (5/class)."""
    lr: float = 0.0
    """Learning rate of the trunk, for a batch of 256 [default: 0.01; 0.02 for less than 2% of the
    labels]."""
    head_lr: float = 0.0
    """Learning rate of the classifier, for a batch of 256 [default: 0.2; 5 for less than 2% of the
    labels]."""
    epochs: int = 0
    """Number of passes over the labelled images [default: 20, or more to reach 1,000 steps]."""
    batch: int = 0
    """Images per step [default: 256, or an eighth of the labelled images if that is less]."""
    seed: int = 0
    """Seed of the order, the crops and the chosen labels."""

    def check(self) -> None:
        """Raise UserError for values that cannot train."""
        check_seed(self.seed)
        for name, value in (("lr", self.lr), ("head-lr", self.head_lr)):
            if not 0 <= value < math.inf:
                raise UserError(f"--{name} {value}: give a rate above 0")
        if self.epochs < 0 or self.batch < 0 or self.batch == 1:
            raise UserError("--epochs and --batch: give 1 or more, and BatchNorm two images")
