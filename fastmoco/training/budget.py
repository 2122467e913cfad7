"""The plan of a run, and a budget that makes it end in time.

The plan gives the fraction of the training that is done at each step, and the learning rate follows
it. Without a budget it is a straight line over the epochs. With a budget, a new line starts at the
current step whenever the measured rate asks for one. A checkpoint keeps all lines, so that a
resumed run has had the same learning rates.
"""

from __future__ import annotations

import datetime
import math
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from data_tools.errors import UserError
from fastmoco.recipe import Recipe
from fastmoco.run_options import RunOptions

RESERVE, LEAST = 0.03, 1.0  # share of the budget, and seconds, kept free for the end
WORTH = 0.01  # share of the steps left; smaller corrections are not made
NOTED = 0.1  # share of the steps; a larger change of the plan is reported
TRIAL = 8  # steps at the start, whose median is the first rate: the first ones compile and load
TRIAL_SHARE = 0.05  # share of the budget, after which three trial steps must be enough
OFTEN = 0.02  # share of the budget between two looks at the plan
NEAR = 4  # a look also comes after a quarter of the steps left
ODD, AGAIN = 2.0, 4  # a step that takes twice as long is measured again, 4 steps later
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass
class Plan:
    """Fraction of the training that is done at each step, piecewise linear."""

    lines: list[tuple[int, float, int]] = field(default_factory=list)
    """Rows of (first step, fraction done there, last step of the run, or 0 if it is not known)."""

    @property
    def steps(self) -> int:
        """Number of steps of the whole run; 0 while a budget measures its rate."""
        return self.lines[-1][2]

    @property
    def budgeted(self) -> bool:
        """True if a budget made this plan."""
        return len(self.lines) > 1 or not self.steps

    def done(self, step: int) -> float:
        """Return the fraction, 0 to 1, that is done before a step (counted from 0)."""
        first, share, last = next(x for x in reversed(self.lines) if x[0] <= step)
        if not last:
            return share
        return min(1.0, share + (1 - share) * (step - first) / max(1, last - first))

    def renew(self, step: int, steps: int) -> None:
        """Let the training end at `steps`, from this step on."""
        self.lines.append((step, self.done(step), max(steps, step + 1)))


class Budget:
    """Fits the plan to the measured rate, so that the run ends within its seconds."""

    def __init__(
        self, seconds: float, text: str, recipe: Recipe, per_epoch: int, started: float,
        options: RunOptions, knn_every: int = 0,
    ) -> None:
        """text: the option as the user gave it. started: time.monotonic() at the start of the run.
        knn_every: epochs between two kNN measurements, 0 for none."""
        self.seconds, self.text = seconds, text
        self._recipe, self._per_epoch, self._knn_every = recipe, per_epoch, knn_every
        self._started, self._log_every = started, options.log_every
        self._expected, self._trying = 0.0, True
        self._first: list[float] = []
        self._side: int | None = None  # side of the views at the last renewal
        self._each, self._doubted = 0.0, False
        self.aside = 0.0
        """Duration of the last kNN in seconds; reserved once more for the final one. The final
        checkpoint is covered by RESERVE."""

    def left(self) -> float:
        """Return the seconds left for steps: until the end, less the reserve."""
        reserve = max(RESERVE * self.seconds, LEAST) + 1.5 * self.aside
        return self.seconds - reserve - self._spent()

    def _spent(self) -> float:
        return time.monotonic() - self._started

    def renew(
        self, plan: Plan, step: int, each: float, share: Callable[[float], float]
    ) -> tuple[int, str | None]:
        """Fit the plan to `each`, the seconds per step since the last call.

        share(x) returns rank 0's x on all ranks, because all must follow the same plan. Returns the
        number of steps until the next call, and a line if the expected end has moved. At the start
        it is called after each step. Raises UserError, on all ranks, for a budget that is too short
        for one epoch.
        """
        if self._trying:
            self._first.append(each)
            late = len(self._first) >= 3 and self._spent() > TRIAL_SHARE * self.seconds
            self._trying = bool(share(float(len(self._first) < TRIAL and not late)))
            if self._trying:
                return 1, None
            each = statistics.median(self._first)
        each, left, aside = (share(x) for x in (each, self.left(), self.aside))
        side = self._recipe.size_at(plan.done(step))
        if self._is_odd(each, side):
            return AGAIN, None
        end = None
        if self._side in (None, side):  # else `each` mixes steps of two view sizes
            end = self._end(plan, step, each, left, aside)
        self._side = side
        line = None
        if end:
            plan.renew(step, end)
            if abs(end - self._expected) > NOTED * self._expected:
                self._expected = float(end)
                when = datetime.datetime.now() + datetime.timedelta(seconds=max(0, left))
                line = (
                    f"{self.text}: {plan.steps:,} steps, {plan.steps / self._per_epoch:.1f} "
                    f"epochs, at {self._recipe.batch / each:,.0f} images/s; done at about "
                    f"{when:%H:%M:%S}"
                )
        often = min(OFTEN * self.seconds / each, (plan.steps - step) / NEAR, self._log_every)
        # A power of two, because log lines come at multiples of it: after a change the next line is
        # never a single step away, whose time would say nothing.
        return 2 ** max(0, int(math.log2(max(1.0, often)))), line

    def _is_odd(self, each: float, side: int) -> bool:
        """Return whether steps are too slow to believe a single measurement.

        A process that was stopped for a while (Ctrl-Z, a suspended machine) measures one such rate.
        A plan made from it would end the run after a few steps and lower the learning rate at once,
        which no later plan can undo.
        """
        same_views = self._side in (None, side)
        self._doubted = same_views and not self._doubted and each > ODD * self._each > 0
        if not self._doubted:
            self._each = each
        return self._doubted

    def _end(
        self, plan: Plan, step: int, seconds_per_step: float, left: float, aside: float
    ) -> int | None:
        """Return the step to end at, by the rate measured at `step`, or None to keep the plan.

        A step costs in proportion to the area of its views. Raises UserError for less than one
        epoch.
        """
        now = plan.done(step)
        side = self._recipe.size_at(now)
        sides = self._recipe.progressive or (self._recipe.size,)
        cost = 0.0  # mean cost of the steps left, as a multiple of a step now
        for i, s in enumerate(sides):
            part = max(0.0, (i + 1) / len(sides) - max(now, i / len(sides)))
            cost += part / (1 - now) * (s / side) ** 2 if now < 1 else 0
        each = seconds_per_step * (cost or 1.0)
        if self._knn_every:  # kNN pauses the clock of the steps, but not the budget's
            each += aside / (self._knn_every * self._per_epoch)
        end = step + max(1, int(left / each))
        if not plan.steps and step < self._per_epoch and end < self._per_epoch:
            epoch = self._per_epoch * each
            raise UserError(
                f"{self.text} is too short for one epoch, which takes {epoch:.0f} s at "
                f"{self._recipe.batch / seconds_per_step:,.0f} images/s: give "
                f"{math.ceil(1.2 * epoch + aside + 5)}s or more, smaller views (--size), or "
                f"fewer images"
            )
        if plan.steps and abs(end - plan.steps) <= max(1, WORTH * (plan.steps - step)):
            return None
        return end


def budget_seconds(options: RunOptions) -> tuple[float, str] | None:
    """Return the seconds that --budget or --until leave from now, and the option's text.

    Returns None if neither is given. Raises UserError for a value that is not a duration, or not a
    time in the future.
    """
    if options.budget and options.until:
        raise UserError("--budget and --until: give one of them")
    if options.budget:
        found = re.fullmatch(r"(?:\d+(?:\.\d+)?[smhd])+", options.budget.replace(" ", ""))
        if not found:
            raise UserError(f"--budget {options.budget}: give a duration such as 90s, 45m or 2h30m")
        parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", options.budget)
        seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
        if seconds <= 0:
            raise UserError(f"--budget {options.budget}: give a duration above 0")
        return seconds, f"--budget {options.budget}"
    if options.until:
        try:
            end = datetime.datetime.fromisoformat(options.until)
        except ValueError:
            raise UserError(
                f"--until {options.until}: give a time such as 2026-12-01T08:00"
            ) from None
        seconds = end.timestamp() - time.time()
        if seconds <= 0:
            raise UserError(f"--until {options.until}: that time has passed")
        return seconds, f"--until {options.until}"
    return None
