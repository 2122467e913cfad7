"""How far a run is at each step, and a run that must be done by a certain time.

The plan is what the schedule follows: a share of the training that is behind at each step. Without
a budget it is a straight line over the epochs. With one, the line is drawn anew from where the run
is whenever its measured rate says so; a checkpoint keeps all lines, so a resumed run has the same
learning rates behind it.
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

RESERVE, LEAST = 0.03, 1.0  # of the budget, and seconds: what is left free for the end
WORTH = 0.01  # of the steps that are left: smaller corrections are not made
TELLING = 0.1  # of the steps: a change that is told
TRIAL = 8  # steps at the start, of which the median is the rate: the first ones compile and fetch
TRIAL_SHARE = 0.05  # of the budget, after which three steps must do
OFTEN = 0.02  # of the budget: how long a plan stands before it is looked at again
NEAR = 4  # and of the steps that are left, one in so many
ODD, AGAIN = 2.0, 4  # a step that takes so many times as long is measured again, so many steps on
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass
class Plan:
    """The share of the training behind at each step, as lines from (step, share) to (steps, 1)."""

    lines: list[tuple[int, float, int]] = field(default_factory=list)
    """(step, share behind there, step at which all is behind, or 0 where that is not known)."""

    @property
    def steps(self) -> int:
        """Of the whole run; 0 while a budget's rate is being measured."""
        return self.lines[-1][2]

    @property
    def budgeted(self) -> bool:
        """Whether a budget drew it."""
        return len(self.lines) > 1 or not self.steps

    def done(self, step: int) -> float:
        """The share behind before a step (from 0), 0..1."""
        first, share, last = next(x for x in reversed(self.lines) if x[0] <= step)
        if not last:
            return share
        return min(1.0, share + (1 - share) * (step - first) / max(1, last - first))

    def renew(self, step: int, steps: int) -> None:
        """From this step on, all is behind at `steps`."""
        self.lines.append((step, self.done(step), max(steps, step + 1)))


class Budget:
    """The seconds that a run may take, from its start; fits the plan to the rate that it sees."""

    def __init__(
        self, seconds: float, text: str, recipe: Recipe, per_epoch: int, begun: float,
        options: RunOptions, knn_every: int = 0,
    ) -> None:
        """`begun`: time.monotonic() at the start; kNN is measured after so many epochs."""
        self.seconds, self.text = seconds, text
        self._recipe, self._per_epoch, self._knn_every = recipe, per_epoch, knn_every
        self._begun, self._log_every = begun, options.log_every
        self._expected, self._trying = 0.0, True
        self._first: list[float] = []
        self._side: int | None = None  # of the views at the last renewal
        self._each, self._doubted = 0.0, False
        self.aside = 0.0
        """Seconds that the last kNN took, which the end needs again; a checkpoint's are in the
        reserve."""

    def left(self) -> float:
        """Seconds until the end, less the reserve."""
        reserve = max(RESERVE * self.seconds, LEAST) + 1.5 * self.aside
        return self.seconds - reserve - self._spent()

    def _spent(self) -> float:
        return time.monotonic() - self._begun

    def renew(
        self, plan: Plan, step: int, each: float, share: Callable[[float], float]
    ) -> tuple[int, str | None]:
        """Fit the plan to the seconds that each step took; `share` gives rank 0's number to all.

        Returns how many steps may pass until the next time, and a line where what is expected has
        changed. The first steps are tried one by one. Raises UserError, on all ranks, for a budget
        that is too short for one epoch.
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
        if self._side in (None, side):  # else `each` is of steps of two sizes
            end = self._end(plan, step, each, left, aside)
        self._side = side
        line = None
        if end:
            plan.renew(step, end)
            if abs(end - self._expected) > TELLING * self._expected:
                self._expected = float(end)
                when = datetime.datetime.now() + datetime.timedelta(seconds=max(0, left))
                line = (
                    f"{self.text}: {plan.steps:,} steps, {plan.steps / self._per_epoch:.1f} "
                    f"epochs, at {self._recipe.batch / each:,.0f} images/s; done at about "
                    f"{when:%H:%M:%S}"
                )
        often = min(OFTEN * self.seconds / each, (plan.steps - step) / NEAR, self._log_every)
        # a power of two: where it changes, the next line is never only a step away, whose time
        # would say nothing
        return 2 ** max(0, int(math.log2(max(1.0, often)))), line

    def _is_odd(self, each: float, side: int) -> bool:
        """Whether steps are so much slower than before that one measurement is no proof of it.

        A process that was stopped for a while (Ctrl-Z, a suspended job or machine) sees one such
        rate. A plan drawn by it would end the run after a few steps, and take the learning rate
        down with it, which no later plan can undo.
        """
        same_views = self._side in (None, side)
        self._doubted = same_views and not self._doubted and each > ODD * self._each > 0
        if not self._doubted:
            self._each = each
        return self._doubted

    def _end(
        self, plan: Plan, step: int, seconds_per_step: float, left: float, aside: float
    ) -> int | None:
        """The step to end at, at a rate measured at `step`; None where the plan may stay.

        A view's cost goes with its area. Raises UserError for less than one epoch.
        """
        now = plan.done(step)
        side = self._recipe.size_at(now)
        sides = self._recipe.progressive or (self._recipe.size,)
        cost = 0.0  # mean over what is left, as a multiple of a step now
        for i, s in enumerate(sides):
            part = max(0.0, (i + 1) / len(sides) - max(now, i / len(sides)))
            cost += part / (1 - now) * (s / side) ** 2 if now < 1 else 0
        each = seconds_per_step * (cost or 1.0)
        if self._knn_every:  # kNN stops the clock of the steps, not the budget's
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
    """The seconds that --budget or --until give from now, and how they were said; None without.

    Raises UserError for what is no duration or no time ahead.
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
