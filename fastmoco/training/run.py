"""A training run: all that its loop needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from data_tools.store import Store
from fastmoco.loading.batch import Batch, Prepared
from fastmoco.loading.engines.engine import Engine
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.model.moco import MoCo
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions
from fastmoco.runs.directory import RunDir
from fastmoco.runs.events import Event
from fastmoco.system.device import DTYPES
from fastmoco.system.ranks import Ranks
from fastmoco.training.budget import Budget, Plan
from fastmoco.training.knn_monitor import Monitor
from fastmoco.training.metrics import Window


@dataclass
class Run:
    """A training run between two steps."""

    recipe: Recipe
    """With its precision, order and statistics resolved."""
    options: RunOptions
    store: Store
    device: torch.device
    ranks: Ranks
    moco: MoCo
    optimizer: torch.optim.SGD
    scaler: torch.amp.GradScaler
    engine: Engine
    loader: TrainLoader
    to_images: Callable[..., torch.Tensor]
    window: Window
    monitor: Monitor | None
    """kNN while training: rank 0's."""
    directory: RunDir
    made_by: dict[str, str]
    """What the bits depend on besides the recipe."""
    origin: str
    """What the weights began as, in a line, where that was another checkpoint."""
    begun: float
    """time.monotonic(): a budget counts from there."""
    plan: Plan
    budget: Budget | None = None
    step: int = 0
    """Steps done."""
    earlier: float = 0.0
    """Seconds of training before this process."""
    spent: float = 0.0
    """Seconds of the budget before this process."""
    measured: dict[int, float] = field(default_factory=dict)
    """kNN by step."""
    tell: Callable[[Event], None] = lambda _event: None
    """Silent on all ranks but the first."""

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.loader.steps_per_epoch

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes and tells."""
        return self.ranks.rank == 0

    @property
    def over(self) -> bool:
        """Whether all steps are done; a budget has none before its rate is known."""
        return self.step == self.plan.steps != 0

    def prepared(self, size: int) -> Callable[[Batch], Prepared]:
        """Views of this side to what a step takes."""
        augment, dtype = self.recipe.augmentation_at(size), DTYPES[self.recipe.precision]

        def prepare(batch: Batch) -> Prepared:
            assert batch.colour is not None
            return batch.prepared(self.to_images(batch.views, batch.colour, augment, dtype))

        return prepare
