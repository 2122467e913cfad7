"""What a log line is made of: training time, and means kept on the device between two lines."""

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

LOST = 3  # skipped steps in a row after which a checkpoint would hold a run that has diverged
STEADY = 5  # log lines whose median rate gives the time left: a pause of one does not show in it
COMPARE_EVERY = 10  # log lines: all weights and keys are read for it


class Window:
    """Sums of what the steps since the last log line gave, kept on the device."""

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
        """What was watched last, where it was a number."""
        self.count = 0
        self.begun, self.waited = 0.0, 0.0
        self.steps_here, self.lines = 0, 0
        self.rates: deque[float] = deque(maxlen=STEADY)

    def add(self, stats: dict[str, torch.Tensor], index: torch.Tensor) -> None:
        """Add one step's scalars, skipped steps' not, and keep its sample ids; no sync."""
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
        """The means over all ranks, waiting for the device, and begin anew.

        None where all steps of the window were skipped: it goes on. Raises UserError where those
        were LOST in a row: read `skipped` before.
        """
        self.ranks.mean_(self.sums.values())
        found = {name: float(total) for name, total in self.sums.items()}
        skipped, count = round(found["skipped"]), self.count
        if skipped == count:
            lost = self.bad.in_a_row()
            if lost < LOST:
                return None
            raise UserError(
                f"the loss, the keys or the gradients are not finite at step {step}, nor in the "
                f"{lost - 1} steps before: lower --lr, or look at the samples that skipped.jsonl "
                f"names; the last checkpoint is whole"
            )
        now, waited = clock.seconds(), self.loader.data_wait
        elapsed = max(now - self.begun, 1e-9)
        rate = self.steps_here / elapsed
        self.rates.append(rate)
        watched = {name: float(x) for name, x in self.watched.items()}
        # a skipped step's are no numbers, which neither health nor JSON can take
        self.last |= {name: x for name, x in watched.items() if math.isfinite(x)}
        r, ways = self.recipe, 2 if self.recipe.symmetric else 1
        seen = step * r.batch * ways
        filled = {
            "queue": seen / r.K,
            "memory-bank": step / self.loader.steps_per_epoch,
            "end-to-end": 1.0,
        }
        progress = Progress(
            step=step,
            steps=plan.steps,
            epoch=step / self.loader.steps_per_epoch,
            loss=found["loss"] / (count - skipped),
            chance=ways * math.log(r.negatives + 1),
            pretext_accuracy=found["pretext_accuracy"] / (count - skipped),
            queue_fill=min(1.0, filled[r.mechanism]),
            lr=lr,
            images_per_s=rate * r.batch,
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
        self.count, self.steps_here, self.begun, self.waited = 0, 0, now, waited
        return progress

    def skipped(self, step: int, store: Store) -> list[Skipped]:
        """The steps since the last call that were skipped, with their samples."""
        return [
            Skipped(at, ids, [store.key(i) for i in ids])
            for at, ids in self.bad.read(step, self.ranks)
        ]

    def compare_sometimes(self, step: int, moco: MoCo) -> None:
        """compare after every tenth log line."""
        self.lines += 1
        if self.lines % COMPARE_EVERY == 0:
            self.compare(step, moco)

    def compare(self, step: int, moco: MoCo) -> None:
        """UserError where the ranks no longer hold the same model; waits."""
        differ = self.ranks.differing(moco.state_dict())
        if differ:
            raise UserError(
                f"the ranks no longer hold the same model at step {step} ({differ[0]} and "
                f"{len(differ) - 1} others differ): a faulty device, or other versions on one of "
                f"the machines; the last checkpoint is left as it is"
            )

    def refuse_bad(self, step: int, moco: MoCo) -> None:
        """UserError where a checkpoint would hold what training cannot go on from; waits."""
        self.compare(step, moco)
        state = [t for t in moco.state_dict().values() if t.is_floating_point()]
        whole = torch.stack([t.isfinite().all() for t in state]).all()
        if self.bad.in_a_row() >= LOST or not whole:
            raise UserError(
                f"the loss or the weights are not finite at step {step}: lower --lr; the last "
                f"checkpoint is left as it is"
            )

    def state(self) -> dict:
        """The sums over all ranks, as means."""
        sums = {name: total.clone() for name, total in self.sums.items()}
        self.ranks.mean_(sums.values())
        return {"sums": sums, "count": self.count}

    def load(self, state: dict) -> None:
        self.count = state["count"]
        for name, total in self.sums.items():
            total.copy_(state["sums"][name])
