"""The learning rate as a function of the fraction of the training that is done."""

from __future__ import annotations

import math

from fastmoco.recipe import Recipe
from fastmoco.settings.step_schedule import DROPS


def learning_rate(
    recipe: Recipe, done: float, steps_per_epoch: int, budgeted: bool = False
) -> float:
    """Return the learning rate of the step after a fraction `done` (0 to 1) of the training.

    schedule 'step' multiplies lr by 0.1 at 60 % and at 80 %; 'cosine' gives
    lr (1 + cos(pi epoch / epochs)) / 2. The official code changes it once per epoch.
    schedule_by='step' changes it at each step, and so does a budget, which has no whole epochs.
    """
    # Rounded to a millionth of a step: 2.9999999 epochs must count as 3.
    at = round(done * recipe.epochs * steps_per_epoch, 6) / steps_per_epoch
    if at < recipe.warmup:
        one = 1 / steps_per_epoch
        return recipe.lr * (at + one) / (recipe.warmup + one)
    if recipe.schedule_by == "epoch" and not budgeted:
        at = math.floor(at)
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * at / recipe.epochs))
    return recipe.lr * 0.1 ** sum(at >= drop * recipe.epochs for drop in DROPS)
