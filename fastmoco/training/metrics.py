"""The figures of a log line: means over the steps since the last one, kept on the device until
`Window.read`: there the host waits for the GPU."""

from __future__ import annotations

import math
import statistics
from collections import deque

import torch

from data_tools.errors import UserError
from data_tools.store import Store
from fastmoco.loading.train_loader import TrainLoader
from fastmoco.model.moco import MoCo
from fastmoco.recipe import Recipe
from fastmoco.runs.events import Progress, Skipped
from fastmoco.system.hardware import used_memory
from fastmoco.system.ranks import ALONE, Ranks
from fastmoco.training.bad_steps import BadSteps
from fastmoco.training.budget import Plan
from fastmoco.training.clock import Clock

LOST = 3  # skipped steps in a row, after which the run counts as diverged
STEADY = 5  # log lines whose median rate gives the time left: one pause does not change it
COMPARE_EVERY = 10  # log lines between two checks that the ranks hold the same model


class Window:
    """Sums over the steps since the last log line, kept on the device."""

    def __init__(
        self, loader: TrainLoader, recipe: Recipe, device: torch.device, log_every: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.loader, self.recipe, self.device, self.ranks = loader, recipe, device, ranks
        names = ("loss", "pretext_accuracy", "skipped")
        self.sums = {n: torch.zeros((), device=device) for n in names}
        self.bad = BadSteps(log_every, recipe.batch // ranks.size, device)
        self.watched: dict[str, torch.Tensor] = {}
        self.last: dict[str, float] = {}
        """Last finite value of each watched figure."""
        self.count = 0
        """Steps in the sums, those before a resume included."""
        self.started, self.waited = 0.0, 0.0
        self.steps_here, self.lines = 0, 0
        self.rates: deque[float] = deque(maxlen=STEADY)

    def add(self, stats: dict[str, torch.Tensor], index: torch.Tensor) -> None:
        """Add the figures of one step (each []) and its sample ids [N]; no sync.

        A skipped step adds to the sum `skipped` alone, because its loss is not a number.
        """
        skipped = stats["skipped"]
        for name, total in self.sums.items():
            total += torch.where(skipped > 0, skipped if name == "skipped" else 0.0, stats[name])
        if "alignment" in stats:
            self.watched = stats
        self.bad.add(index, skipped)
        self.count += 1
        self.steps_here += 1

    def read(
        self, step: int, plan: Plan, lr: float, clock: Clock, budget_left: float | None = None
    ) -> Progress | None:
        """Return the means over the steps and all ranks, and start again; waits for the device.

        Returns None if all steps were skipped, and goes on adding. Raises UserError if the last
        LOST steps or more were skipped. Call `skipped` first: reading forgets which steps they
        were.
        """
        self.ranks.mean_(self.sums.values())
        found = {name: float(total) for name, total in self.sums.items()}
        skipped = round(found["skipped"])
        taken = self.count - skipped
        if taken == 0:
            self._refuse_lost(step)
            return None
        now, waited = clock.seconds(), self.loader.data_wait
        elapsed = max(now - self.started, 1e-9)
        rate = self.steps_here / elapsed
        self.rates.append(rate)
        watched = {name: float(x) for name, x in self.watched.items()}
        # Those of a skipped step are not finite: neither health nor JSON can take them.
        self.last |= {name: x for name, x in watched.items() if math.isfinite(x)}
        ways = 2 if self.recipe.symmetric else 1
        progress = Progress(
            step=step,
            steps=plan.steps,
            epoch=step / self.loader.steps_per_epoch,
            loss=found["loss"] / taken,
            chance=ways * math.log(self.recipe.negatives + 1),
            pretext_accuracy=found["pretext_accuracy"] / taken,
            queue_fill=self._queue_fill(step),
            lr=lr,
            images_per_s=rate * self.recipe.batch,
            data_wait=(waited - self.waited) / elapsed,
            seconds_left=max(0, plan.steps - step) / statistics.median(self.rates),
            alignment=self.last.get("alignment", 0.0),
            uniformity=self.last.get("uniformity", 0.0),
            feature_std=self.last.get("feature_std", 0.0),
            grad_norm=self.last.get("grad_norm", 0.0),
            memory=used_memory(self.device) / 1e9,
            skipped=skipped,
            budget_left=budget_left,
        )
        for total in self.sums.values():
            total.zero_()
        self.count, self.steps_here, self.started, self.waited = 0, 0, now, waited
        return progress

    def _refuse_lost(self, step: int) -> None:
        """Raise UserError if the last LOST steps or more were skipped."""
        lost = self.bad.in_a_row()
        if lost >= LOST:
            raise UserError(
                f"the loss, the keys or the gradients are not finite at step {step}, nor in the "
                f"{lost - 1} steps before: lower --lr, or look at the samples that skipped.jsonl "
                f"names; the last checkpoint is whole"
            )

    def _queue_fill(self, step: int) -> float:
        """Share of the negatives that come from this run, and are not its random first ones."""
        recipe = self.recipe
        if recipe.mechanism == "end-to-end":
            return 1.0
        if recipe.mechanism == "memory-bank":
            return min(1.0, step / self.loader.steps_per_epoch)
        keys = step * recipe.batch * (2 if recipe.symmetric else 1)
        return min(1.0, keys / recipe.K)

    def skipped(self, step: int, store: Store) -> list[Skipped]:
        """Return the steps that were skipped since the last call, with the keys of their samples;
        waits for the device."""
        return [
            Skipped(at, ids, [store.key(i) for i in ids])
            for at, ids in self.bad.read(step, self.ranks)
        ]

    def compare_sometimes(self, step: int, moco: MoCo) -> None:
        """Call compare once in COMPARE_EVERY log lines, because it reads all weights and keys."""
        self.lines += 1
        if self.lines % COMPARE_EVERY == 0:
            self.compare(step, moco)

    def compare(self, step: int, moco: MoCo) -> None:
        """Raise UserError if the ranks no longer hold the same model; waits for the device."""
        differ = self.ranks.differing(moco.state_dict())
        if differ:
            raise UserError(
                f"the ranks no longer hold the same model at step {step} ({differ[0]} and "
                f"{len(differ) - 1} others differ): a faulty device, or other versions on one of "
                f"the machines; the last checkpoint is left as it is"
            )

    def refuse_bad(self, step: int, moco: MoCo) -> None:
        """Raise UserError if training could not go on from a checkpoint of now; waits for the
        device."""
        self.compare(step, moco)
        state = [t for t in moco.state_dict().values() if t.is_floating_point()]
        whole = torch.stack([t.isfinite().all() for t in state]).all()
        if self.bad.in_a_row() >= LOST or not whole:
            raise UserError(
                f"the loss or the weights are not finite at step {step}: lower --lr; the last "
                f"checkpoint is left as it is"
            )

    def state(self) -> dict:
        """Return the sums, as means over all ranks, and their number of steps."""
        sums = {name: total.clone() for name, total in self.sums.items()}
        self.ranks.mean_(sums.values())
        return {"sums": sums, "count": self.count}

    def load(self, state: dict) -> None:
        """Continue with the sums that state() returned."""
        self.count = state["count"]
        for name, total in self.sums.items():
            total.copy_(state["sums"][name])
