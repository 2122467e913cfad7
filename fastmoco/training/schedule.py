"""The learning rate, as a function of where the run is."""

from __future__ import annotations

import math

from fastmoco.recipe import Recipe
from fastmoco.settings.step_schedule import DROPS


def learning_rate(
    recipe: Recipe, done: float, steps_per_epoch: int, budgeted: bool = False
) -> float:
    """The rate of a step before which a share `done` (0..1) of the training is behind: x0.1 at
    60 % and 80 %, or lr (1 + cos(pi epoch/epochs)) / 2.

    The official code moves it once an epoch; schedule_by='step' moves it every step, as does a
    budget, which counts in no epochs.
    """
    at = round(done * recipe.epochs * steps_per_epoch, 6) / steps_per_epoch
    if at < recipe.warmup:
        one = 1 / steps_per_epoch
        return recipe.lr * (at + one) / (recipe.warmup + one)
    if recipe.schedule_by == "epoch" and not budgeted:
        at = math.floor(at)
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * at / recipe.epochs))
    return recipe.lr * 0.1 ** sum(at >= drop * recipe.epochs for drop in DROPS)
