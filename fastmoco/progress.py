"""What a log line is made of: training time, and means kept on the device between two lines."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from data_tools.errors import UserError
from fastmoco.events import Progress
from fastmoco.loader import TrainLoader
from fastmoco.recipe import Recipe


class Clock:
    """Training time: what passes inside `with clock`, less what is paused."""

    def __enter__(self) -> Clock:
        self._begun = self._mark = time.perf_counter()
        self._paused = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close: a context, so that the time begins where the run does."""

    def seconds(self) -> float:
        return time.perf_counter() - self._begun - self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._paused += time.perf_counter() - begun

    def mark(self) -> None:
        self._mark = time.perf_counter()

    def since_mark(self) -> float:
        return time.perf_counter() - self._mark


class Window:
    """Sums of what the steps since the last log line gave, kept on the device."""

    def __init__(self, loader: TrainLoader, recipe: Recipe, device: torch.device) -> None:
        self.loader, self.recipe = loader, recipe
        self.sums = {n: torch.zeros((), device=device) for n in ("loss", "pretext_accuracy")}
        self.count = 0
        self.begun, self.waited = 0.0, 0.0
        self.steps_here = 0

    def add(self, stats: dict[str, torch.Tensor]) -> None:
        """Add one step's scalars; no sync."""
        for name, total in self.sums.items():
            total += stats[name]
        self.count += 1
        self.steps_here += 1

    def read(self, step: int, steps: int, lr: float, clock: Clock) -> Progress:
        """The means, waiting for the device, and begin anew."""
        means = {name: float(total) / self.count for name, total in self.sums.items()}
        if not math.isfinite(means["loss"]):
            raise UserError(
                f"the loss is {means['loss']} at step {step}: lower --lr, or look at the data; the "
                f"last checkpoint is whole"
            )
        now, waited = clock.seconds(), self.loader.data_wait
        elapsed = max(now - self.begun, 1e-9)
        rate = self.steps_here / elapsed
        progress = Progress(
            step=step,
            steps=steps,
            epoch=step / self.loader.steps_per_epoch,
            loss=means["loss"],
            chance=math.log(self.recipe.K + 1),
            pretext_accuracy=means["pretext_accuracy"],
            queue_fill=min(1.0, step * self.recipe.batch / self.recipe.K),
            lr=lr,
            images_per_s=rate * self.recipe.batch,
            data_wait=(waited - self.waited) / elapsed,
            seconds_left=(steps - step) / rate,
        )
        for total in self.sums.values():
            total.zero_()
        self.count, self.steps_here, self.begun, self.waited = 0, 0, now, waited
        return progress

    def state(self) -> dict:
        return {"sums": self.sums, "count": self.count}

    def load(self, state: dict) -> None:
        self.count = state["count"]
        for name, total in self.sums.items():
            total.copy_(state["sums"][name])
