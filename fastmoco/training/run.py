"""A training run: its parts, and its state between two steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from data_tools.store import Store
from fastmoco.loading.batch import Prepared
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions
from fastmoco.training.budget import Budget, Plan
from fastmoco.training.build import Trained
from fastmoco.training.clock import Clock
from fastmoco.training.knn_monitor import Monitor
from fastmoco.training.machine import Machine
from fastmoco.training.metrics import Window
from fastmoco.training.pipeline import Pipeline
from fastmoco.training.records import Records


@dataclass
class Run:
    """A training run between two steps."""

    recipe: Recipe
    """The recipe, with its precision, order and statistics settled."""
    options: RunOptions
    store: Store
    machine: Machine
    trained: Trained
    pipeline: Pipeline
    window: Window
    """Sums of the steps since the last log line."""
    monitor: Monitor | None
    """kNN while training, on rank 0 only."""
    records: Records
    made_by: dict[str, str]
    """Versions, device and options that the bits depend on, in addition to the recipe."""
    clock: Clock
    plan: Plan
    budget: Budget | None
    log_every: int
    """Steps from one log line to the next. A budget changes it."""
    step: int
    """Number of steps done."""

    @property
    def per_epoch(self) -> int:
        """Number of steps per epoch."""
        return self.pipeline.loader.steps_per_epoch

    @property
    def over(self) -> bool:
        """True if all steps are done. A budget has no last step before its rate is known."""
        return self.step == self.plan.steps != 0

    @property
    def epoch_ended(self) -> bool:
        """True at the end of an epoch."""
        return self.step % self.per_epoch == 0

    @property
    def size(self) -> int:
        """Side of the next step's views, in pixels."""
        return self.recipe.size_at(self.plan.done(self.step))

    @property
    def logs_next(self) -> bool:
        """True if a log line follows the next step."""
        following = self.step + 1
        return following % self.log_every == 0 or following == self.plan.steps

    def batches(self) -> Iterator[Prepared]:
        """Yield the batch of each step that is left. The loop counts the steps."""
        while not self.over:
            epoch, first_step = divmod(self.step, self.per_epoch)
            size = self.size
            for batch in self.pipeline.epoch(epoch, first_step, size):
                yield batch
                # The step is counted by now, and a budget may have moved the end. If the views
                # grow in mid-epoch, the rest of it is opened again with the next size.
                if self.over or self.size != size:
                    break
